//! Which value of each setting counts, and where it came from. Pure.

use std::ffi::OsString;

use clap::{ArgMatches, parser::ValueSource};

use super::{KEYS, Profile};
use crate::pager::DEFAULT_PAGER;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// This variable.
    Environment(String),
    /// This profile of this file.
    Profile {
        /// The profile.
        name: String,
        /// The file.
        file: String,
    },
    /// Nobody said anything.
    BuiltIn,
}

impl Source {
    /// The kind in one word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment(_) => "environment",
            Self::Profile { .. } => "profile",
            Self::BuiltIn => "built-in",
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Profile { name, file } => write!(f, "profile {name} in {file}"),
            Self::Flag | Self::BuiltIn => f.write_str(self.word()),
        }
    }
}

/// One setting as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, as of its flag.
    pub name: String,
    /// Its value; `None` where it has none.
    pub value: Option<String>,
    /// Where that came from.
    pub source: Source,
}

/// What holds where nobody says anything.
const BUILT_IN: [(&str, Option<&str>); 5] = [
    ("coordinator", Some(crate::args::DEFAULT_COORDINATOR)),
    ("output", Some("table")),
    ("color", Some("auto")),
    ("api-key-file", None),
    ("lang", None),
];

/// Every setting: what a profile can say, the profile itself, and whatever other option of any command has its
/// variable set. `matches` is the command line as parsed without the profile's values, `file` where profiles stand.
pub fn resolve(
    command: &clap::Command,
    matches: &ArgMatches,
    profile: &Profile,
    file: Option<String>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<Setting> {
    let value = |name: &str| {
        variable(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
    };
    let named = |name: &str| format!("MUSTER_{}", name.to_uppercase().replace('-', "_"));
    let given = |name: &str| {
        if let Some(text) = from_flag(matches, &name.replace('-', "_")) {
            return Some((Some(text), Source::Flag));
        }
        let variable = named(name);
        value(&variable).map(|text| (Some(text), Source::Environment(variable)))
    };
    let setting = |name: &str, (value, source): (Option<String>, Source)| Setting {
        name: name.to_owned(),
        value,
        source,
    };
    let mut settings = Vec::new();
    let profile_source = || Source::Profile { name: profile.name.clone(), file: profile.file.clone() };
    for (name, built_in) in BUILT_IN {
        let from_profile = || profile.get(name).map(|text| (Some(text.to_owned()), profile_source()));
        let from_key = || {
            let key = "BIZYAIR_API_KEY";
            (name == "api-key-file" && value(key).is_some())
                .then(|| (None, Source::Environment(key.to_owned())))
        };
        let found = given(name).or_else(from_key).or_else(from_profile);
        settings.push(setting(name, found.unwrap_or((built_in.map(str::to_owned), Source::BuiltIn))));
    }
    let chosen = Some(profile.name.clone()).filter(|name| !name.is_empty());
    let source = if chosen.is_some() { profile_source() } else { Source::BuiltIn };
    settings.push(setting("profile", given("profile").unwrap_or((chosen, source))));
    settings.push(setting("config-file", given("config-file").unwrap_or((file, Source::BuiltIn))));
    // Set to nothing, these mean something: no pager.
    let pager = ["MUSTER_PAGER", "PAGER"].into_iter().find_map(|name| Some((name, variable(name)?)));
    settings.push(match pager {
        Some((name, _)) => setting("pager", (value(name), Source::Environment(name.to_owned()))),
        None => setting("pager", (Some(DEFAULT_PAGER.to_owned()), Source::BuiltIn)),
    });
    let mut others = Vec::new();
    variables(command, &mut others);
    others.sort();
    others.dedup();
    for (long, name) in others {
        let known = KEYS.contains(&long.as_str()) || ["profile", "config-file"].contains(&long.as_str());
        if let (false, Some(text)) = (known, value(&name)) {
            settings.push(setting(&long, (Some(text), Source::Environment(name))));
        }
    }
    settings
}

fn from_flag(matches: &ArgMatches, id: &str) -> Option<String> {
    if let Ok(true) = matches.try_contains_id(id)
        && matches.value_source(id) == Some(ValueSource::CommandLine)
    {
        let raw = matches.try_get_raw(id).ok().flatten()?.next()?;
        return Some(raw.to_string_lossy().into_owned());
    }
    let (_, matches) = matches.subcommand()?;
    from_flag(matches, id)
}

/// Long name and variable of every option of every command.
fn variables(command: &clap::Command, found: &mut Vec<(String, String)>) {
    for arg in command.get_arguments() {
        if let (Some(long), Some(variable)) = (arg.get_long(), arg.get_env()) {
            found.push((long.to_owned(), variable.to_string_lossy().into_owned()));
        }
    }
    command.get_subcommands().for_each(|command| variables(command, found));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::{args::Cli, config::Entry};

    fn resolved(line: &[&str], profile: &Profile, environment: &[(&str, &str)]) -> Vec<(String, String)> {
        let words = ["muster"].iter().chain(line).chain(&["config", "show"]);
        let matches = Cli::command().try_get_matches_from(words).unwrap();
        let variable =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let settings = resolve(&Cli::command(), &matches, profile, None, variable);
        settings
            .into_iter()
            .map(|setting| {
                (setting.name, format!("{} ({})", setting.value.unwrap_or_default(), setting.source))
            })
            .collect()
    }

    fn of(settings: &[(String, String)], name: &str) -> String {
        settings.iter().find(|(known, _)| known == name).map(|(_, text)| text.clone()).unwrap_or_default()
    }

    #[test]
    fn flag_beats_environment_beats_profile_beats_what_is_built_in() {
        let profile = Profile {
            name: "work".to_owned(),
            file: "f".to_owned(),
            entries: vec![Entry { key: "coordinator", value: "http://p:1".to_owned() }],
        };
        let none = Profile::default();
        let flag = ["--coordinator", "http://f:1"];
        let environment = [("MUSTER_COORDINATOR", "http://e:1"), ("MUSTER_SLOTS", "4")];
        let all = resolved(&flag, &profile, &environment);
        assert_eq!(of(&all, "coordinator"), "http://f:1 (flag)");
        assert_eq!(of(&all, "slots"), "4 (environment MUSTER_SLOTS)");
        assert_eq!(of(&all, "profile"), "work (profile work in f)");
        let all = resolved(&[], &profile, &environment);
        assert_eq!(of(&all, "coordinator"), "http://e:1 (environment MUSTER_COORDINATOR)");
        assert_eq!(of(&resolved(&[], &profile, &[]), "coordinator"), "http://p:1 (profile work in f)");
        let all = resolved(&[], &none, &[]);
        assert_eq!(of(&all, "coordinator"), "http://127.0.0.1:7070 (built-in)");
        assert_eq!(of(&all, "output"), "table (built-in)");
    }

    #[test]
    fn a_pager_that_is_nothing_is_no_pager() {
        let none = Profile::default();
        let of = |environment: &[(&str, &str)]| of(&resolved(&[], &none, environment), "pager");
        assert_eq!(of(&[]), "less -FRX (built-in)");
        assert_eq!(of(&[("PAGER", "most")]), "most (environment PAGER)");
        assert_eq!(of(&[("MUSTER_PAGER", ""), ("PAGER", "most")]), " (environment MUSTER_PAGER)");
    }

    #[test]
    fn a_key_in_the_environment_is_named_and_never_shown() {
        let profile = Profile {
            entries: vec![Entry { key: "api-key-file", value: "key.txt".to_owned() }],
            ..Profile::default()
        };
        let all = resolved(&[], &profile, &[("BIZYAIR_API_KEY", "sk-canary")]);
        assert_eq!(of(&all, "api-key-file"), " (environment BIZYAIR_API_KEY)");
    }
}
