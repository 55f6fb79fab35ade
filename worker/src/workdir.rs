//! The work directory of a worker: what makes it this worker, across restarts.
//!
//! It is locked while a network half uses it, and holds the `instance` file, whose id tells the coordinator that
//! a worker that comes back is the same one. The runner's journal, its socket, the spool and the outputs lie in
//! it too; their files are the business of those modules.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How many work directories one user has without naming them.
const MAX_UNNAMED: u32 = 1024;
const INSTANCE: &str = "instance";
const LOCK: &str = "half.lock";
/// Characters of an instance id.
const INSTANCE_LEN: usize = 32;

/// A work directory that this process has locked.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    instance_id: String,
    place: String,
    /// Held as long as the directory is in use.
    _lock: File,
}

/// The work directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkDirError {
    /// Another worker is running there.
    #[error(
        "the work directory {0} is in use by another worker; stop that one, or give --work-dir another path"
    )]
    InUse(PathBuf),
    /// Every unnamed one is in use.
    #[error("all {MAX_UNNAMED} work directories under {0} are in use; give --work-dir a path")]
    AllInUse(PathBuf),
    /// Neither `XDG_STATE_HOME` nor `HOME` says where to put it.
    #[error("no place for a work directory is known: set HOME or XDG_STATE_HOME, or give --work-dir a path")]
    NoHome,
    /// It holds something else.
    #[error("{0} is not empty and not a worker's work directory; give --work-dir an empty or new one")]
    NotOurs(PathBuf),
    /// The instance file was changed.
    #[error(
        "{0} does not hold {INSTANCE_LEN} hexadecimal digits; remove it if no other worker is a copy of this one"
    )]
    BadInstance(PathBuf),
    /// The file system refuses.
    #[error("cannot use the work directory {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

impl WorkDir {
    /// Opens and locks the given directory, or the first one of the user's that is free. Makes what is missing.
    ///
    /// # Errors
    /// It is in use, is something else, or cannot be written.
    pub fn open(path: Option<&Path>) -> Result<Self, WorkDirError> {
        if let Some(path) = path {
            return Self::lock(path);
        }
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = set("XDG_STATE_HOME").filter(|path| path.is_absolute());
        let state = state.or_else(|| Some(set("HOME")?.join(".local/state"))).ok_or(WorkDirError::NoHome)?;
        Self::first_free(&state.join("muster"))
    }

    /// The directory, absolute and without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names it for good: 32 hexadecimal digits.
    pub fn instance_id(&self) -> &str {
        &self.instance_id
    }

    /// Tells it from a copy of it on the same machine, for as long as the machine runs: which file the lock is on.
    /// Two that have the same place exclude one another.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Where the outputs of tasks go.
    pub fn outputs(&self) -> PathBuf {
        self.path.join("outputs")
    }

    fn first_free(parent: &Path) -> Result<Self, WorkDirError> {
        for number in 1..=MAX_UNNAMED {
            match Self::lock(&parent.join(format!("worker-{number}"))) {
                Err(WorkDirError::InUse(_)) => {}
                other => return other,
            }
        }
        Err(WorkDirError::AllInUse(parent.to_owned()))
    }

    fn lock(path: &Path) -> Result<Self, WorkDirError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| WorkDirError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let path = fs::canonicalize(path).map_err(at(path))?;
        let instance_path = path.join(INSTANCE);
        let lock_path = path.join(LOCK);
        if !instance_path.exists()
            && !lock_path.exists()
            && fs::read_dir(&path).map_err(at(&path))?.next().is_some()
        {
            return Err(WorkDirError::NotOurs(path));
        }
        let lock =
            owner_only().read(true).write(true).create(true).open(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(WorkDirError::InUse(path)),
            Err(TryLockError::Error(error)) => return Err(at(&lock_path)(error)),
        }
        // The socket and the spool are for the owner only, whoever made the directory.
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(at(&path))?;
        let instance_id = instance(&path, &instance_path)?;
        let locked = lock.metadata().map_err(at(&lock_path))?;
        let place = format!("{:x}-{:x}", locked.dev(), locked.ino());
        let work_dir = Self { path, instance_id, place, _lock: lock };
        let outputs = work_dir.outputs();
        DirBuilder::new().recursive(true).mode(0o700).create(&outputs).map_err(at(&outputs))?;
        Ok(work_dir)
    }
}

/// Reads the instance id, or makes it. Only under the lock.
fn instance(dir: &Path, path: &Path) -> Result<String, WorkDirError> {
    let at = |source| WorkDirError::Io { path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Ok(text) => {
            let id = text.trim();
            let good = id.len() == INSTANCE_LEN && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            return if good {
                Ok(id.to_ascii_lowercase())
            } else {
                Err(WorkDirError::BadInstance(path.to_owned()))
            };
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(error)),
    }
    let mut bytes = [0; INSTANCE_LEN / 2];
    getrandom::fill(&mut bytes).map_err(|error| at(io::Error::other(error.to_string())))?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Whole or not at all: half an id would make the directory unusable.
    let draft = dir.join("instance.new");
    let mut file = owner_only().write(true).create(true).truncate(true).open(&draft).map_err(at)?;
    file.write_all(format!("{id}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(at)?;
    fs::rename(&draft, path).map_err(at)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at)?;
    Ok(id)
}

fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_id_and_has_one_user() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/w");
        let first = WorkDir::open(Some(&path)).unwrap();
        let (id, place) = (first.instance_id().to_owned(), first.place().to_owned());
        assert_eq!(id.len(), 32);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(WorkDir::open(Some(&path)), Err(WorkDirError::InUse(_))));
        drop(first);
        let again = WorkDir::open(Some(&path)).unwrap();
        assert_eq!((again.instance_id(), again.place()), (&*id, &*place));
    }

    #[test]
    fn the_first_free_one_is_taken() {
        let base = tempfile::tempdir().unwrap();
        let first = WorkDir::first_free(base.path()).unwrap();
        let second = WorkDir::first_free(base.path()).unwrap();
        assert!(first.path().ends_with("worker-1") && second.path().ends_with("worker-2"));
        assert_ne!(first.instance_id(), second.instance_id());
        drop(first);
        assert!(WorkDir::first_free(base.path()).unwrap().path().ends_with("worker-1"));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(WorkDir::open(Some(base.path())), Err(WorkDirError::NotOurs(_))));
        let spoilt = base.path().join("w");
        drop(WorkDir::open(Some(&spoilt)).unwrap());
        fs::write(spoilt.join(INSTANCE), "short").unwrap();
        assert!(matches!(WorkDir::open(Some(&spoilt)), Err(WorkDirError::BadInstance(_))));
    }
}
