//! API keys at rest: encrypted for their batch, under a key that is kept outside the store.
//!
//! A copy of the store alone gives no API key away, and an encrypted key that is moved to another batch does
//! not open. What this does not do: decide when a key is deleted (the machine does), or protect from someone
//! who can read both the store and the key file.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use muster_proto::BatchId;
use zeroize::Zeroizing;

/// Bytes of the key file.
const KEY_LEN: usize = 32;
/// The first byte of everything sealed: XChaCha20-Poly1305, 24 bytes of nonce, then text and tag.
const VERSION: u8 = 1;
const NONCE_LEN: usize = 24;

/// An API key in the clear. Never printed, wiped when dropped.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a key.
    pub fn new(key: String) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The key, for the one place that hands it on.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// It can be neither read nor made.
    #[error("the key file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not what was once written.
    #[error(
        "the key file {path} has {found} bytes instead of 32; restore it from a backup, or remove it, which \
         loses the API keys of unfinished batches"
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        found: usize,
    },
}

/// A key could not be sealed; it must not be stored otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The system gives no random bytes.
    #[error("the system gives no random bytes to encrypt the API key with")]
    NoRandomness,
    /// Longer than the cipher takes (256 GiB).
    #[error("the API key is too long to be encrypted")]
    TooLong,
}

/// A sealed key does not open. The task that needs it cannot run; the key must be given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Sealed by a newer version, or not at all.
    #[error("the stored API key has an unknown format; give it again with a retry")]
    UnknownFormat,
    /// Sealed for another batch or under another key file, or changed since.
    #[error("the stored API key does not open with this key file; give it again with a retry")]
    Refused,
}

/// Seals and opens API keys.
pub struct Keyring {
    cipher: XChaCha20Poly1305,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(***)")
    }
}

impl Keyring {
    /// Reads the key file, or makes it (mode 0600, 32 random bytes, synced) where there is none. Its folder
    /// must exist, and one coordinator only may start on it at a time.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        let failed = |source| KeyringError::Io { path: path.to_owned(), source };
        let key = match fs::read(path) {
            Ok(key) => {
                keep_private(path).map_err(failed)?;
                Zeroizing::new(key)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(path).map_err(failed)?,
            Err(error) => return Err(failed(error)),
        };
        let cipher = XChaCha20Poly1305::new_from_slice(&key)
            .map_err(|_| KeyringError::Malformed { path: path.to_owned(), found: key.len() })?;
        Ok(Self { cipher })
    }

    /// Encrypts a key for one batch.
    pub fn seal(&self, batch: BatchId, key: &str) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let batch = associated(batch);
        let payload = Payload { msg: key.as_bytes(), aad: &batch };
        let text =
            self.cipher.encrypt(XNonce::from_slice(&nonce), payload).map_err(|_| SealError::TooLong)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens what was sealed for this batch.
    pub fn unseal(&self, batch: BatchId, sealed: &[u8]) -> Result<Secret, UnsealError> {
        let Some((&VERSION, rest)) = sealed.split_first() else { return Err(UnsealError::UnknownFormat) };
        let Some((nonce, text)) = rest.split_at_checked(NONCE_LEN) else {
            return Err(UnsealError::UnknownFormat);
        };
        let batch = associated(batch);
        let payload = Payload { msg: text, aad: &batch };
        let key = self
            .cipher
            .decrypt(XNonce::from_slice(nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| UnsealError::Refused)?;
        let key = std::str::from_utf8(&key).map_err(|_| UnsealError::Refused)?;
        Ok(Secret::new(key.to_owned()))
    }
}

/// What a sealed key is bound to.
fn associated(batch: BatchId) -> [u8; 8] {
    batch.get().to_be_bytes()
}

fn keep_private(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the key file was open to other users; made private");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Written whole under another name first: a crash leaves either no key file or a good one.
fn make_key(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut key = Zeroizing::new(vec![0; KEY_LEN]);
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::File::open(folder)?.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64) -> BatchId {
        BatchId::from_u64(number).unwrap()
    }

    #[test]
    fn a_key_opens_for_its_batch_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let sealed = Keyring::open(&path).unwrap().seal(batch(7), "sk-canary-äß").unwrap();
        assert!(!String::from_utf8_lossy(&sealed).contains("canary"));
        let keyring = Keyring::open(&path).unwrap();
        assert_eq!(keyring.unseal(batch(7), &sealed).unwrap().expose(), "sk-canary-äß");
        assert_ne!(sealed, keyring.seal(batch(7), "sk-canary-äß").unwrap(), "every nonce is new");
        assert_eq!(keyring.unseal(batch(7), &keyring.seal(batch(7), "").unwrap()).unwrap().expose(), "");
    }

    #[test]
    fn a_key_does_not_open_for_another_batch_or_key_file_or_once_changed() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(&dir.path().join("key")).unwrap();
        let other = Keyring::open(&dir.path().join("other")).unwrap();
        let sealed = keyring.seal(batch(7), "sk-canary").unwrap();
        assert_eq!(keyring.unseal(batch(8), &sealed).unwrap_err(), UnsealError::Refused);
        assert_eq!(other.unseal(batch(7), &sealed).unwrap_err(), UnsealError::Refused);
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert!(keyring.unseal(batch(7), &changed).is_err(), "byte {place}");
            assert!(keyring.unseal(batch(7), &sealed[..place]).is_err(), "cut at {place}");
        }
        assert_eq!(keyring.unseal(batch(7), &[2; 80]).unwrap_err(), UnsealError::UnknownFormat);
    }

    #[test]
    fn the_key_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        fs::write(dir.path().join("key.new"), "left by a crash").unwrap();
        Keyring::open(&path).unwrap();
        assert_eq!(mode(), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Keyring::open(&path).unwrap();
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn a_bad_key_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("the-key");
        for content in [&b""[..], &[1; 31], &[1; 33]] {
            fs::write(&path, content).unwrap();
            let error = Keyring::open(&path).unwrap_err();
            assert!(error.to_string().contains("the-key"), "{error}");
            assert!(matches!(error, KeyringError::Malformed { found, .. } if found == content.len()));
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        let error = Keyring::open(&dir.path().join("missing/the-key")).unwrap_err();
        assert!(error.to_string().contains("missing/the-key"), "{error}");
    }

    #[test]
    fn nothing_prints_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(&dir.path().join("key")).unwrap();
        assert_eq!(format!("{:?}", Secret::new("sk-canary".to_owned())), "Secret(***)");
        assert_eq!(format!("{keyring:?}"), "Keyring(***)");
    }
}
