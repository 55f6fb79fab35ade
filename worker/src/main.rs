//! The `muster-worker` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = muster_worker::runner::reexec(std::env::args_os()) {
        return code;
    }
    ExitCode::from(2)
}
