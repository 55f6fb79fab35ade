//! The `muster` command: see [`muster_cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    muster_cli::main()
}
