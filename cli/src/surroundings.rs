//! What a command finds around its streams: somebody to ask, a terminal to draw on, the words it was started with.

use std::{ffi::OsString, io::IsTerminal, sync::Arc};

use crate::{color::Colors, config::Setting};

/// What is around a command. Nothing by default: a command in a test asks nobody.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Standard input and standard error are both terminals, so that somebody can be asked.
    pub can_ask: bool,
    /// Data may be coloured.
    pub data_in_colour: bool,
    /// Talk may be coloured, and drawn with more than ASCII.
    pub talk_in_colour: bool,
    /// The words that the program was started with, its own name first.
    pub command_line: Arc<[OsString]>,
    /// The settings in force and where each came from.
    pub settings: Arc<[Setting]>,
}

impl Surroundings {
    /// The process's own.
    pub fn of_process(colors: Colors, settings: Vec<Setting>) -> Self {
        Self {
            can_ask: std::io::stderr().is_terminal() && std::io::stdin().is_terminal(),
            data_in_colour: colors.out,
            talk_in_colour: colors.err,
            command_line: std::env::args_os().collect(),
            settings: settings.into(),
        }
    }
}
