//! The API key: where a command finds it, and when what it finds is none.
//!
//! What it does not do: print a key, take one from an argument (anybody could read it in the list of processes),
//! or check it with its issuer.

use std::{env::VarError, path::PathBuf};

use clap::Args;
use muster_coordinator::core::api_key::usable;

use crate::{error::Error, input::file::read_text, io::Io, sanitize::one_line};

/// The variable that the key is taken from when no file gives one. A task finds its own there.
pub(crate) const VARIABLE: &str = "BIZYAIR_API_KEY";
/// The largest key file that is read.
pub(crate) const MAX_KEY_BYTES: u64 = 64 << 10;

/// The key that models are looked up and tasks run with.
#[derive(Clone, Debug, Default, Args)]
pub struct KeyArgs {
    /// File with the API key, which tasks find as BIZYAIR_API_KEY [default: the variable BIZYAIR_API_KEY]
    #[arg(long, env = "MUSTER_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
}

impl KeyArgs {
    /// The key: the file's, else the variable's; empty where neither has one. A placeholder counts as none, and
    /// is said to, without being shown.
    pub fn read(&self, io: &Io) -> Result<String, Error> {
        self.read_or(io, std::env::var(VARIABLE))
    }

    /// Whether the key comes from standard input, so that nothing else can.
    pub fn takes_standard_input(&self) -> bool {
        self.api_key_file.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }

    fn read_or(&self, io: &Io, variable: Result<String, VarError>) -> Result<String, Error> {
        if let Some(path) = &self.api_key_file {
            let path = path.display().to_string();
            if let Some(key) = found(&one_line(&path), &read_text(&path, MAX_KEY_BYTES)?, io) {
                return Ok(key);
            }
        }
        match variable {
            Ok(text) if text.is_empty() => Ok(String::new()),
            Ok(text) => Ok(found(VARIABLE, &text, io).unwrap_or_default()),
            Err(VarError::NotPresent) => Ok(String::new()),
            // The error would show it.
            Err(VarError::NotUnicode(_)) => {
                Err(Error::Usage(format!("{VARIABLE}: the key is not UTF-8 text")))
            }
        }
    }
}

/// The key in `text`; where it is none, says so by the name of the place alone.
fn found(place: &str, text: &str, io: &Io) -> Option<String> {
    let key = usable(text).map(str::to_owned);
    if key.is_none() {
        let what = if text.trim().is_empty() { "is empty" } else { "holds a placeholder" };
        io.say(&format!("{place} {what}, which counts as no key"));
    }
    key
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);

    impl Said {
        fn io(&self) -> Io {
            Io::new(Box::new(std::io::sink()), Box::new(self.clone()), false)
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Said {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn in_file(text: &str) -> (tempfile::NamedTempFile, KeyArgs) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let args = KeyArgs { api_key_file: Some(file.path().to_owned()) };
        (file, args)
    }

    #[test]
    fn a_key_comes_from_its_file_without_the_line_end_and_the_file_wins() {
        let said = Said::default();
        let (_file, args) = in_file("sk-1\n");
        assert_eq!(args.read_or(&said.io(), Ok("sk-2".to_owned())).unwrap(), "sk-1");
        assert_eq!(KeyArgs::default().read_or(&said.io(), Ok(" sk-2 ".to_owned())).unwrap(), "sk-2");
        assert_eq!(KeyArgs::default().read_or(&said.io(), Err(VarError::NotPresent)).unwrap(), "");
        assert_eq!(said.text(), "");
    }

    #[test]
    fn a_placeholder_counts_as_none_and_is_named_but_never_shown() {
        for text in ["YOUR_SECRET_KEY", "<secret>\n", "${BIZYAIR_API_KEY}", "\n"] {
            let said = Said::default();
            let (file, args) = in_file(text);
            assert_eq!(args.read_or(&said.io(), Ok("sk-2".to_owned())).unwrap(), "sk-2", "{text}");
            let said = said.text();
            assert!(said.contains(&file.path().display().to_string()) && said.contains("no key"), "{said}");
            assert!(!said.to_lowercase().contains("secret") && !said.contains("${"), "{said}");
        }
        let said = Said::default();
        let placeholder = Ok("YOUR_SECRET_KEY".to_owned());
        assert_eq!(KeyArgs::default().read_or(&said.io(), placeholder).unwrap(), "");
        assert!(said.text().contains(VARIABLE) && !said.text().contains("SECRET"), "{}", said.text());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_no_reason_to_look_elsewhere() {
        let args = KeyArgs { api_key_file: Some("no/such/file".into()) };
        let read = args.read_or(&Said::default().io(), Ok("sk-2".to_owned()));
        assert!(matches!(read, Err(Error::Read { .. })));
    }
}
