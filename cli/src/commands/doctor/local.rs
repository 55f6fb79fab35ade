//! What this machine brings along: the key and the program. A key is looked at and never shown.

use std::env::VarError;

use muster_coordinator::core::api_key::usable;

use crate::{
    input::file::read_text,
    key::{KeyArgs, MAX_KEY_BYTES, VARIABLE},
};

use super::report::{Check, Status};

/// Where a key would be taken from.
pub(super) fn key(args: &KeyArgs) -> Check {
    key_or(args, std::env::var(VARIABLE))
}

fn key_or(args: &KeyArgs, variable: Result<String, VarError>) -> Check {
    const NAME: &str = "key";
    let mut useless = None;
    if args.takes_standard_input() {
        return Check::new(NAME, Status::Note, "comes from standard input, which is not read here");
    }
    if let Some(path) = &args.api_key_file {
        let path = path.display().to_string();
        match read_text(&path, MAX_KEY_BYTES) {
            Ok(text) if usable(&text).is_some() => return Check::ok(NAME, format!("found in {path}")),
            Ok(text) => useless = Some((path, text.trim().is_empty())),
            Err(error) => {
                return Check::new(NAME, Status::Problem, error.to_string())
                    .fix(format!("name a file with the key in it, or set {VARIABLE}"));
            }
        }
    }
    match variable {
        Ok(text) if usable(&text).is_some() => return Check::ok(NAME, format!("found in {VARIABLE}")),
        Ok(text) if !text.is_empty() => useless = Some((VARIABLE.to_owned(), text.trim().is_empty())),
        Ok(_) | Err(VarError::NotPresent) => {}
        // The error would show it.
        Err(VarError::NotUnicode(_)) => {
            return Check::new(NAME, Status::Problem, format!("{VARIABLE} is not UTF-8 text"))
                .fix("set it to the key itself");
        }
    }
    match useless {
        Some((place, empty)) => {
            let what = if empty { "is empty" } else { "holds a placeholder" };
            Check::new(NAME, Status::Problem, format!("{place} {what}, which counts as no key"))
                .fix("put the real key there, or take the placeholder away")
        }
        None => Check::new(NAME, Status::Note, "none found: programs that need one will fail")
            .fix(format!("set {VARIABLE}, or give --api-key-file FILE")),
    }
}

/// Whether `muster run` would find its program here. Workers on other machines have their own.
pub(super) fn dispatch(dispatch: &str) -> Check {
    match muster_worker::config::runnable_words(dispatch) {
        Ok(_) => Check::ok("dispatch", format!("muster run can start {dispatch:?}")),
        Err(error) => Check::new("dispatch", Status::Note, format!("muster run cannot start it: {error}"))
            .fix("only muster run needs it: give --dispatch CMD there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_file(text: &str) -> (tempfile::NamedTempFile, KeyArgs) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let args = KeyArgs { api_key_file: Some(file.path().to_owned()) };
        (file, args)
    }

    #[test]
    fn a_key_is_found_by_place_and_never_shown() {
        let (file, args) = in_file("sk-canary\n");
        let found = key_or(&args, Ok("sk-other".to_owned()));
        assert_eq!((found.status, found.detail), (Status::Ok, format!("found in {}", file.path().display())));
        let found = key_or(&KeyArgs::default(), Ok("sk-canary".to_owned()));
        assert_eq!((found.status, found.detail.as_str()), (Status::Ok, "found in BIZYAIR_API_KEY"));
        let (_file, args) = in_file("YOUR_CANARY_KEY");
        let found = key_or(&args, Err(VarError::NotPresent));
        assert_eq!(found.status, Status::Problem);
        assert!(found.detail.contains("placeholder") && !found.detail.contains("CANARY"), "{found:?}");
        assert_eq!(key_or(&args, Ok("sk-canary".to_owned())).status, Status::Ok, "the variable is next");
        assert_eq!(key_or(&KeyArgs::default(), Err(VarError::NotPresent)).status, Status::Note);
        let missing = KeyArgs { api_key_file: Some("no/such/file".into()) };
        assert_eq!(key_or(&missing, Ok("sk-canary".to_owned())).status, Status::Problem);
    }

    #[test]
    fn a_program_that_is_not_there_is_a_note() {
        assert_eq!(dispatch("/bin/sh -c true").status, Status::Ok);
        assert_eq!(dispatch("no-such-program-anywhere").status, Status::Note);
    }
}
