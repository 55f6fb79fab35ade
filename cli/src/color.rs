//! Whether output is coloured: the one place that decides, for standard output and for standard error.
//!
//! It only decides; what is coloured, and how, is up to whoever prints.

use std::{ffi::OsString, io::IsTerminal};

use clap::ValueEnum;

/// What `--color` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR, CLICOLOR=0 or TERM=dumb say otherwise
    #[default]
    Auto,
    /// Into files and pipes too
    Always,
    /// Nowhere
    Never,
}

/// What was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Colors {
    /// Data, on standard output, may be coloured.
    pub out: bool,
    /// Talk, on standard error, may be coloured.
    pub err: bool,
}

impl Colors {
    /// For the process's own streams and environment. `asked` is `--color` (or MUSTER_COLOR), `profile` what the
    /// profile says.
    pub fn of_process(asked: When, profile: When) -> Self {
        let decide = |terminal| decide(asked, profile, terminal, |name| std::env::var_os(name));
        Self { out: decide(std::io::stdout().is_terminal()), err: decide(std::io::stderr().is_terminal()) }
    }
}

/// The flag, then the environment (`NO_COLOR`, `CLICOLOR_FORCE`, `CLICOLOR=0`), then the profile, then whether the
/// stream is a terminal that knows colour. Pure.
pub fn decide(
    asked: When,
    profile: When,
    terminal: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> bool {
    let value = |name| variable(name).filter(|value| !value.is_empty());
    let wanted = |when| match when {
        When::Always => Some(true),
        When::Never => Some(false),
        When::Auto => None,
    };
    wanted(asked)
        .or_else(|| value("NO_COLOR").map(|_| false))
        .or_else(|| value("CLICOLOR_FORCE").filter(|force| force != "0").map(|_| true))
        .or_else(|| value("CLICOLOR").filter(|allowed| allowed == "0").map(|_| false))
        .or_else(|| wanted(profile))
        .unwrap_or_else(|| terminal && value("TERM").is_none_or(|term| term != "dumb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_then_environment_then_profile_then_terminal() {
        use When::{Always, Auto, Never};
        const XTERM: (&str, &str) = ("TERM", "xterm");
        /// `--color`, profile, terminal, environment → coloured.
        type Row = (When, When, bool, &'static [(&'static str, &'static str)], bool);
        let table: &[Row] = &[
            (Auto, Auto, true, &[XTERM], true),
            (Auto, Auto, false, &[XTERM], false),
            (Auto, Auto, true, &[("TERM", "dumb")], false),
            (Auto, Auto, true, &[], true),
            (Always, Auto, false, &[], true),
            (Always, Never, false, &[("NO_COLOR", "1"), ("TERM", "dumb")], true),
            (Never, Always, true, &[XTERM, ("CLICOLOR_FORCE", "1")], false),
            (Auto, Auto, true, &[XTERM, ("NO_COLOR", "1")], false),
            (Auto, Auto, true, &[XTERM, ("NO_COLOR", "0")], false),
            (Auto, Auto, true, &[XTERM, ("NO_COLOR", "")], true),
            (Auto, Auto, false, &[("CLICOLOR_FORCE", "1")], true),
            (Auto, Auto, false, &[("CLICOLOR_FORCE", "0")], false),
            (Auto, Auto, false, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
            (Auto, Auto, false, &[("CLICOLOR_FORCE", "1"), ("CLICOLOR", "0")], true),
            (Auto, Auto, true, &[XTERM, ("CLICOLOR", "0")], false),
            (Auto, Auto, true, &[XTERM, ("CLICOLOR", "1")], true),
            (Auto, Auto, false, &[XTERM, ("CLICOLOR", "1")], false),
            (Auto, Always, false, &[], true),
            (Auto, Never, true, &[XTERM], false),
            (Auto, Always, true, &[XTERM, ("NO_COLOR", "1")], false),
            (Auto, Never, false, &[("CLICOLOR_FORCE", "1")], true),
        ];
        for &(asked, profile, terminal, environment, expected) in table {
            let variable =
                |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            let row = format!("--color {asked:?}, profile {profile:?}, terminal {terminal}, {environment:?}");
            assert_eq!(decide(asked, profile, terminal, variable), expected, "{row}");
        }
    }
}
