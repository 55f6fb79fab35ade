//! The operator's `config.json`, read afresh each time that it is needed: the configured limits, and the key that
//! prefills use when the request has none.
//!
//! What the limits mean is `core::policy`'s to know. A file that cannot be read or parsed (half-written, say)
//! leaves the last good limits in force.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    core::{
        api_key,
        policy::{Policy, SystemLimits},
    },
    secrets::Secret,
};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1_024 * 1_024;

/// The limits in force and where they come from.
pub(crate) struct PolicyFile {
    path: Option<PathBuf>,
    system: SystemLimits,
    last: Mutex<Last>,
}

struct Last {
    good: Policy,
    /// What was said about the file last, so that it is not said with every submission.
    complaint: Option<String>,
}

impl PolicyFile {
    /// Limits from this file, or the fallbacks where there is none.
    pub(crate) fn new(path: Option<PathBuf>, system: SystemLimits) -> Self {
        let last = Mutex::new(Last { good: Policy::fallback(system), complaint: None });
        Self { path, system, last }
    }

    /// The limits in force now. Reads a file, so it blocks.
    pub(crate) fn read(&self) -> Policy {
        let Some(path) = &self.path else { return Policy::fallback(self.system) };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match self.parse(path) {
            Ok(policy) => *last = Last { good: policy, complaint: None },
            Err(complaint) => {
                if last.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!(
                        file = %path.display(),
                        max_concurrency = last.good.max_concurrency,
                        max_tasks = last.good.max_tasks,
                        "{complaint}; the last good limits stay in force"
                    );
                }
                last.complaint = Some(complaint);
            }
        }
        last.good
    }

    /// The key for prefills (`credentials.api_key`), where the file has a usable one. Not kept: an edit takes
    /// effect at once. Reads a file, so it blocks; a file that cannot be read is [`Self::read`]'s to complain about.
    pub(crate) fn api_key(&self) -> Option<Secret> {
        let config = read_config(self.path.as_deref()?).ok().flatten()?;
        let key = config.get("credentials")?.get("api_key")?.as_str()?;
        api_key::usable(key).map(|key| Secret::new(key.to_owned()))
    }

    fn parse(&self, path: &Path) -> Result<Policy, String> {
        Ok(match read_config(path)? {
            None => Policy::fallback(self.system),
            Some(config) => Policy::from_config(&config, self.system),
        })
    }
}

/// The file as JSON; `None` where there is none. Says what is wrong with it, and nothing of what it holds.
fn read_config(path: &Path) -> Result<Option<Value>, String> {
    let mut text = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("the config file cannot be read: {error}")),
        Ok(read) if read as u64 > MAX_BYTES => {
            return Err(format!("the config file is larger than {MAX_BYTES} bytes"));
        }
        Ok(_) => {}
    }
    let config = serde_json::from_slice(&text);
    config.map(Some).map_err(|error| format!("the config file is not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn limits(file: &PolicyFile) -> (u32, u32) {
        let policy = file.read();
        (policy.max_concurrency, policy.max_tasks)
    }

    #[test]
    fn an_edit_takes_effect_at_once_and_a_broken_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let file = PolicyFile::new(Some(path.clone()), SystemLimits::default());
        assert_eq!(limits(&file), (3, 5), "no file");
        fs::write(&path, r#"{"batch": {"max_concurrency": 2, "max_tasks": 9}}"#).unwrap();
        assert_eq!(limits(&file), (2, 9));
        fs::write(&path, r#"{"batch": {"max_conc"#).unwrap();
        assert_eq!(limits(&file), (2, 9), "half-written");
        fs::write(&path, " ".repeat(2 << 20)).unwrap();
        assert_eq!(limits(&file), (2, 9), "too large");
        fs::write(&path, "{}").unwrap();
        assert_eq!(limits(&file), (3, 5), "nothing said");
        fs::write(&path, r#"{"batch": {"max_concurrency": 1}}"#).unwrap();
        assert_eq!(limits(&file), (1, 5));
        fs::remove_file(&path).unwrap();
        assert_eq!(limits(&file), (3, 5), "gone");
    }

    #[test]
    fn without_a_path_the_fallbacks_hold() {
        let system = SystemLimits { max_concurrency: 1, max_tasks: 2 };
        assert_eq!(limits(&PolicyFile::new(None, system)), (1, 2));
    }

    #[test]
    fn the_key_for_prefills_is_there_unless_it_is_a_placeholder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let file = PolicyFile::new(Some(path.clone()), SystemLimits::default());
        assert!(file.api_key().is_none(), "no file");
        for (text, key) in [
            (r#"{"credentials": {"api_key": " sk-1\n"}}"#, Some("sk-1")),
            (r#"{"credentials": {"api_key": "sk-2"}, "batch": {}}"#, Some("sk-2")),
            (r#"{"credentials": {"api_key": "YOUR_API_KEY"}}"#, None),
            (r#"{"credentials": {"api_key": 7}}"#, None),
            (r#"{"credentials": "sk-3"}"#, None),
            (r#"{"credentials": {"api_key": "sk-4""#, None),
            ("[]", None),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(file.api_key().as_ref().map(Secret::expose), key, "{text}");
        }
    }
}
