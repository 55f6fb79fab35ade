//! Settings from profiles: what the file says, and which value of a setting counts.
//!
//! A profile is a named set of settings for users of several coordinators. The order is: flag, environment, profile,
//! built-in. Nothing that spends money can stand in one (approvals), and nothing secret (a key, only the name of the
//! file with it), so the file may be readable by all. It is read here and written nowhere.

mod file;
mod settings;

pub use file::{Entry, File, KEYS};
pub use settings::{Setting, Source, resolve};

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{error::Error, input::file::read_text, sanitize::one_line};

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// The profile that is used where none is named, if there is one of that name.
const USUAL: &str = "default";

/// One profile of one file; empty where none is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The file that it stands in, as a path.
    pub file: String,
    /// Its settings by name, each a key of [`KEYS`].
    pub entries: Vec<Entry>,
}

impl Profile {
    /// What it says about a setting.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// Where the file stands: as given, else `$XDG_CONFIG_HOME/muster/config.toml`, else `~/.config/muster/config.toml`.
/// `None` where there is no home.
pub fn location(given: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(path) = given {
        return Some(path.to_owned());
    }
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("muster/config.toml"))
}

/// Reads the profile `name` (else the one that the file names, else the one called `default`) from the file. A file
/// that is not there is empty, unless it was `given`.
///
/// # Errors
/// The file cannot be read or is broken (with line and column), or there is no such profile.
pub fn load(path: Option<&Path>, given: bool, name: Option<&str>) -> Result<Profile, Error> {
    let name = name.filter(|name| !name.is_empty());
    let missing = |path: &str| match name {
        Some(name) => Err(Error::Usage(format!(
            "--profile {name}: there are no profiles, as there is no file {path}; write there: [profile.{name}]"
        ))),
        None => Ok(Profile::default()),
    };
    let Some(path) = path else { return missing("~/.config/muster/config.toml") };
    let shown = one_line(&path.display().to_string());
    if !given && !path.exists() {
        return missing(&shown);
    }
    let text = read_text(&path.display().to_string(), MAX_FILE_BYTES)?;
    let file = File::parse(&text).map_err(|problem| Error::Usage(format!("{shown}:{problem}")))?;
    let mut profile = choose(file, &shown, name)?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    for entry in profile.entries.iter_mut().filter(|entry| entry.key == "api-key-file") {
        entry.value = absolute(&entry.value, path, home.as_deref());
    }
    Ok(profile)
}

fn choose(file: File, shown: &str, name: Option<&str>) -> Result<Profile, Error> {
    let wanted = name.or(file.default_profile.as_deref()).unwrap_or(USUAL).to_owned();
    let names: Vec<&str> = file.profiles.iter().map(|(name, _)| name.as_str()).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let unknown =
        |what: &str| Error::Usage(format!("{what}: there is no profile {wanted} in {shown} ({known})"));
    let explicit = match (name, &file.default_profile) {
        (Some(_), _) => Some(format!("--profile {wanted}")),
        (None, Some(_)) => Some("default-profile".to_owned()),
        (None, None) => None,
    };
    match (file.profiles.iter().find(|(name, _)| *name == wanted), explicit) {
        (Some((name, entries)), _) => {
            Ok(Profile { name: name.clone(), file: shown.to_owned(), entries: entries.clone() })
        }
        (None, Some(what)) => Err(unknown(&what)),
        (None, None) => Ok(Profile { file: shown.to_owned(), ..Profile::default() }),
    }
}

/// A path in the file: `~/` is the home, and what is relative is so to the file.
fn absolute(value: &str, file: &Path, home: Option<&Path>) -> String {
    let path = match (value.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => file.parent().unwrap_or(Path::new("")).join(value),
    };
    path.display().to_string()
}

/// The command line with a profile's values as defaults, under flags and environment.
#[must_use]
pub fn with_defaults(command: clap::Command, profile: &Profile) -> clap::Command {
    // A key in the environment beats a file that the profile names.
    let key_is_set = std::env::var_os("BIZYAIR_API_KEY").is_some_and(|key| !key.is_empty());
    under(command, &|name| match name {
        "color" => None,
        "api-key-file" if key_is_set => None,
        name => profile.get(name).map(str::to_owned),
    })
}

fn under(command: clap::Command, value: &impl Fn(&str) -> Option<String>) -> clap::Command {
    command
        .mut_args(|arg| match arg.get_long().and_then(value) {
            Some(value) => arg.default_value(value),
            None => arg,
        })
        .mut_subcommands(|command| under(command, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(settings: &[(&str, &str)]) -> Option<String> {
        let variable =
            |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        location(None, variable).map(|path| path.display().to_string())
    }

    #[test]
    fn the_file_stands_where_xdg_says() {
        let both = [("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(place(&both).as_deref(), Some("/x/muster/config.toml"));
        assert_eq!(place(&both[1..]).as_deref(), Some("/h/.config/muster/config.toml"));
        // The standard ignores what is relative.
        assert_eq!(
            place(&[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")]).as_deref(),
            Some("/h/.config/muster/config.toml")
        );
        assert_eq!(place(&[]), None);
    }

    #[test]
    fn the_profile_is_the_one_asked_for_then_the_files_own_then_the_usual_one() {
        let text = "default-profile = 'b'\n[profile.a]\nlang = 'zh'\n[profile.b]\n[profile.default]\n";
        let chosen = |text: &str, name| choose(File::parse(text).unwrap(), "f", name).map(|found| found.name);
        assert_eq!(chosen(text, Some("a")).unwrap(), "a");
        assert_eq!(chosen(text, None).unwrap(), "b");
        assert_eq!(chosen("[profile.default]\n", None).unwrap(), "default");
        assert_eq!(chosen("[profile.a]\n", None).unwrap(), "");
        let unknown = chosen(text, Some("c")).unwrap_err().to_string();
        assert_eq!(unknown, "--profile c: there is no profile c in f (a, b, default)");
    }

    #[test]
    fn a_profile_that_does_not_exist_is_never_silently_none() {
        let text = load(Some(Path::new("/no/such/file")), false, Some("work")).unwrap_err().to_string();
        assert!(text.contains("[profile.work]") && text.contains("/no/such/file"), "{text}");
        assert_eq!(load(Some(Path::new("/no/such/file")), false, None).unwrap(), Profile::default());
        assert!(load(Some(Path::new("/no/such/file")), true, None).is_err());
    }

    #[test]
    fn a_key_file_is_found_from_the_home_or_from_the_file() {
        let (file, home) = (Path::new("/c/config.toml"), Some(Path::new("/h")));
        assert_eq!(absolute("~/key", file, home), "/h/key");
        assert_eq!(absolute("key", file, home), "/c/key");
        assert_eq!(absolute("/k", file, home), "/k");
    }
}
