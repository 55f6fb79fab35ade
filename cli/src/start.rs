//! From the words of the command line to a command that can be run: profile, colours, pager.

use std::{ffi::OsString, process::ExitCode};

use clap::{FromArgMatches as _, error::ErrorKind};

use crate::{
    args::{self, Cli},
    color::{Colors, When},
    config::{self, Profile},
    error::Error,
    io::Io,
    pager::{self, Pager},
    surroundings::Surroundings,
};

/// A command, ready to be run.
pub struct Start {
    /// The command line, with the profile's values where it and the environment say nothing.
    pub cli: Cli,
    /// Where output goes.
    pub io: Io,
    /// The pager that output goes to, where it is long.
    pub pager: Option<Pager>,
}

/// Reads the command line. Help, a wrong command line and a profile that cannot be used are printed here, and the
/// process's exit code returned.
///
/// # Errors
/// There is nothing more to do; the exit code says how it ended.
pub fn read(words: Vec<OsString>) -> Result<Start, ExitCode> {
    let command = args::command().color(help_color(&words));
    let command = args::without_empty_variables(command, &|name| std::env::var_os(name));
    let usage = |error: clap::Error| {
        let error = without_settings(error, &command, &words);
        // A reader that went away is no error.
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    };
    let matches = command.clone().try_get_matches_from(&words).map_err(usage)?;
    let plain = Cli::from_arg_matches(&matches).map_err(usage)?;
    let profile = profile_of(&plain).map_err(|error| {
        Io::standard().say(&error.text().unwrap_or_default());
        ExitCode::from(error.exit())
    })?;
    let file = config::location(plain.config_file.as_deref(), |name| std::env::var_os(name));
    let settings =
        config::resolve(&command, &matches, &profile, file.map(|path| path.display().to_string()), |name| {
            std::env::var_os(name)
        });
    // Once more, so that what a profile says stands under flag and environment like what is built in.
    let cli = if profile.entries.is_empty() {
        plain
    } else {
        let matches =
            config::with_defaults(command.clone(), &profile).try_get_matches_from(&words).map_err(usage)?;
        Cli::from_arg_matches(&matches).map_err(usage)?
    };
    let profile_color = profile.get("color").and_then(|when| clap::ValueEnum::from_str(when, false).ok());
    let colors = Colors::of_process(cli.color, profile_color.unwrap_or_default());
    let surroundings = Surroundings::of_process(colors, settings);
    let io = Io::standard().with_surroundings(surroundings.clone());
    let pager = pager_for(&cli, &io);
    let io = match &pager {
        Some(pager) => {
            let (out, talk) = (Box::new(pager.out()), Box::new(pager.talk()));
            Io::new(out, talk, true).with_surroundings(surroundings)
        }
        None => io,
    };
    Ok(Start { cli, io, pager })
}

/// What is wrong with the command line, without the options that only the environment gives: the usage in it would
/// show them as if they were needed.
fn without_settings(error: clap::Error, command: &clap::Command, words: &[OsString]) -> clap::Error {
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return error;
    }
    let bare = args::without_empty_variables(command.clone(), &|_| Some(OsString::new()));
    match bare.try_get_matches_from(words) {
        Err(same) if same.kind() == error.kind() => same,
        _ => error,
    }
}

/// The profile that a command line (and the environment) asks for.
///
/// # Errors
/// See [`config::load`].
pub fn profile_of(cli: &Cli) -> Result<Profile, Error> {
    let given = cli.config_file.as_deref();
    let path = config::location(given, |name| std::env::var_os(name));
    config::load(path.as_deref(), given.is_some(), cli.profile.as_deref())
}

/// A pager, where a terminal is to show a table that may be longer than it is high.
fn pager_for(cli: &Cli, io: &Io) -> Option<Pager> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if !io.out_is_terminal() || dumb || cli.no_pager || !cli.command.prints_long_table() {
        return None;
    }
    let (terminal_size::Width(columns), terminal_size::Height(rows)) = terminal_size::terminal_size()?;
    if columns == 0 || rows == 0 {
        return None;
    }
    let words = pager::program(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))?;
    Some(Pager::new(words, columns.into(), rows.into()))
}

/// `--color` for help and for what is wrong with a command line, which are printed before it has been read.
fn help_color(words: &[OsString]) -> clap::ColorChoice {
    let words: Vec<&str> = words.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let asked = words.iter().take_while(|word| **word != "--").enumerate().find_map(|(place, word)| {
        if *word == "--color" { words.get(place + 1).copied() } else { word.strip_prefix("--color=") }
    });
    let variable = std::env::var("MUSTER_COLOR").ok();
    let when: Option<When> =
        asked.or(variable.as_deref()).and_then(|when| clap::ValueEnum::from_str(when, false).ok());
    match when.unwrap_or_default() {
        When::Auto => clap::ColorChoice::Auto,
        When::Always => clap::ColorChoice::Always,
        When::Never => clap::ColorChoice::Never,
    }
}
