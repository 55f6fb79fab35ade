//! What a command finds around its streams: somebody to ask, a terminal to draw on, the words it was started with.

use std::{ffi::OsString, io::IsTerminal, sync::Arc};

/// What is around a command. Nothing by default: a command in a test asks nobody.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Standard input and standard error are both terminals, so that somebody can be asked.
    pub can_ask: bool,
    /// Talk may be coloured, and drawn with more than ASCII.
    pub talk_in_colour: bool,
    /// The words that the program was started with, its own name first.
    pub command_line: Arc<[OsString]>,
}

impl Surroundings {
    /// The process's own.
    pub fn of_process() -> Self {
        let err_is_terminal = std::io::stderr().is_terminal();
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let plain = set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb");
        Self {
            can_ask: err_is_terminal && std::io::stdin().is_terminal(),
            talk_in_colour: err_is_terminal && !plain,
            command_line: std::env::args_os().collect(),
        }
    }
}
