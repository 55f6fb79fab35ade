//! The runner's journal: what was seen, started and ended, as fixed-size checksummed records, one write each.
//!
//! It survives the runner's death, which is what it is for; it is not synced at every record, because after the
//! machine's death no process is left that could run twice, and the coordinator takes another boot as proof of
//! nothing. Holds ids, pids, sizes and times: never a command, an environment or output.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::place::Place;
use super::protocol::{AttemptKey, Ended, StopCause};
use super::seen::Seen;

/// The size of a record in bytes.
pub(super) const RECORD: usize = 64;
/// A journal is rewritten when it is longer than this and twice what the last rewrite left.
const COMPACT_AT: u64 = 16 * 1024 * 1024;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A runner started, in this boot and in this work directory.
    Boot(u128, Place),
    /// An attempt is about to be spawned.
    Seen(AttemptKey),
    /// Its process runs.
    Started { key: AttemptKey, pid: i32, start_ticks: u64, start_ms: u64 },
    /// It has ended; its result and output are held.
    Ended { key: AttemptKey, outcome: Outcome },
    /// Nothing of it is held: refused, not started, or forgotten.
    Closed(AttemptKey),
}

/// How an attempt ended, as it is journalled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) stop_sent: bool,
    pub(super) lost: bool,
    /// The error that kept the output from being written.
    pub(super) output_errno: Option<i32>,
    pub(super) size: u64,
    pub(super) discarded: u64,
    pub(super) end_ms: u64,
    /// Why it was stopped, where it was.
    pub(super) stop_cause: Option<StopCause>,
}

impl Outcome {
    /// As the half is told.
    pub(super) fn to_ended(self, attempt: AttemptKey) -> Ended {
        Ended {
            attempt,
            exit_code: self.exit_code,
            signal: self.signal,
            stop_sent: self.stop_sent,
            size: self.size,
            discarded: self.discarded,
            end_ms: self.end_ms,
            output_failed: self.output_errno.map(|errno| io::Error::from_raw_os_error(errno).to_string()),
            lost: self.lost,
            stop_cause: self.stop_cause,
        }
    }
}

/// The causes by the number that a record has.
const CAUSES: [(u8, StopCause); 4] = [
    (1, StopCause::Requested),
    (2, StopCause::TimeLimit),
    (3, StopCause::CutOff),
    (4, StopCause::WorkerStopped),
];

const BOOT: u8 = 1;
const SEEN: u8 = 2;
const STARTED: u8 = 3;
const ENDED: u8 = 4;
const CLOSED: u8 = 5;

const HAS_CODE: u8 = 1;
const HAS_SIGNAL: u8 = 2;
const STOP_SENT: u8 = 4;
const LOST: u8 = 8;
const OUTPUT_FAILED: u8 = 16;

/// kind, flags, cause, spare, i32, life, batch, task, attempt, three u64, i32, crc32 of what is before it. Little
/// endian.
fn to_bytes(record: &Record) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let key = match record {
        Record::Boot(id, place) => {
            put(0, &[BOOT]);
            put(8, &id.to_le_bytes());
            put(24, &place.device.to_le_bytes());
            put(32, &place.inode.to_le_bytes());
            put(40, &place.nonce.to_le_bytes());
            None
        }
        Record::Seen(key) => {
            put(0, &[SEEN]);
            Some(key)
        }
        Record::Started { key, pid, start_ticks, start_ms } => {
            put(0, &[STARTED]);
            put(4, &pid.to_le_bytes());
            put(32, &start_ticks.to_le_bytes());
            put(40, &start_ms.to_le_bytes());
            Some(key)
        }
        Record::Ended { key, outcome } => {
            let flag = |on: bool, bit: u8| if on { bit } else { 0 };
            let flags = flag(outcome.exit_code.is_some(), HAS_CODE)
                | flag(outcome.signal.is_some(), HAS_SIGNAL)
                | flag(outcome.stop_sent, STOP_SENT)
                | flag(outcome.lost, LOST)
                | flag(outcome.output_errno.is_some(), OUTPUT_FAILED);
            let cause = CAUSES.iter().find(|(_, cause)| Some(*cause) == outcome.stop_cause);
            put(0, &[ENDED, flags, cause.map_or(0, |(number, _)| *number)]);
            put(4, &outcome.exit_code.or(outcome.signal).unwrap_or(0).to_le_bytes());
            put(32, &outcome.size.to_le_bytes());
            put(40, &outcome.discarded.to_le_bytes());
            put(48, &outcome.end_ms.to_le_bytes());
            put(56, &outcome.output_errno.unwrap_or(0).to_le_bytes());
            Some(key)
        }
        Record::Closed(key) => {
            put(0, &[CLOSED]);
            Some(key)
        }
    };
    if let Some(key) = key {
        put(8, &key.life.to_le_bytes());
        put(16, &key.batch.to_le_bytes());
        put(24, &key.task.to_le_bytes());
        put(28, &key.attempt.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[..RECORD - 4]);
    bytes[RECORD - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn from_bytes(bytes: &[u8; RECORD]) -> Option<Record> {
    fn array<const N: usize>(bytes: &[u8; RECORD], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&bytes[at..at + N]);
        out
    }
    if crc32fast::hash(&bytes[..RECORD - 4]) != u32::from_le_bytes(array(bytes, RECORD - 4)) {
        return None;
    }
    let long = |at| u64::from_le_bytes(array(bytes, at));
    let number = i32::from_le_bytes(array(bytes, 4));
    let key = AttemptKey {
        life: long(8),
        batch: long(16),
        task: u32::from_le_bytes(array(bytes, 24)),
        attempt: u32::from_le_bytes(array(bytes, 28)),
    };
    let has = |bit: u8| bytes[1] & bit != 0;
    Some(match bytes[0] {
        BOOT => {
            let place = Place { device: long(24), inode: long(32), nonce: long(40) };
            Record::Boot(u128::from_le_bytes(array(bytes, 8)), place)
        }
        SEEN => Record::Seen(key),
        STARTED => Record::Started { key, pid: number, start_ticks: long(32), start_ms: long(40) },
        ENDED => {
            let errno = i32::from_le_bytes(array(bytes, 56));
            let outcome = Outcome {
                exit_code: has(HAS_CODE).then_some(number),
                signal: has(HAS_SIGNAL).then_some(number),
                stop_sent: has(STOP_SENT),
                lost: has(LOST),
                output_errno: has(OUTPUT_FAILED).then_some(errno),
                size: long(32),
                discarded: long(40),
                end_ms: long(48),
                stop_cause: CAUSES.iter().find(|(number, _)| *number == bytes[2]).map(|(_, cause)| *cause),
            };
            Record::Ended { key, outcome }
        }
        CLOSED => Record::Closed(key),
        _ => return None,
    })
}

/// An attempt that a runner before this one left without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unended {
    /// The boot it was started in.
    pub(super) boot: u128,
    /// The work directory it was started in: another one if this is a copy.
    pub(super) place: Place,
    /// Its process and when that started, unless the runner died in between.
    pub(super) process: Option<(i32, u64)>,
}

/// What the journal said when it was opened.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) seen: Seen,
    /// Left running.
    pub(super) unended: BTreeMap<AttemptKey, Unended>,
    /// Ended and not acknowledged.
    pub(super) ended: BTreeMap<AttemptKey, Outcome>,
    /// Bytes at the end that were no record, and are cut off.
    pub(super) torn: u64,
    /// Records inside that were damaged, and are passed over.
    pub(super) damaged: u64,
    boot: u128,
    place: Place,
}

impl Replay {
    fn unended_in(&self, process: Option<(i32, u64)>) -> Unended {
        Unended { boot: self.boot, place: self.place, process }
    }

    fn apply(&mut self, record: &Record) {
        match *record {
            Record::Boot(id, place) => (self.boot, self.place) = (id, place),
            Record::Seen(key) => {
                self.seen.insert(key);
                self.unended.insert(key, self.unended_in(None));
            }
            Record::Started { key, pid, start_ticks, .. } => {
                self.seen.insert(key);
                self.unended.insert(key, self.unended_in(Some((pid, start_ticks))));
            }
            Record::Ended { key, outcome } => {
                self.seen.insert(key);
                self.unended.remove(&key);
                self.ended.insert(key, outcome);
            }
            Record::Closed(key) => {
                self.seen.insert(key);
                self.unended.remove(&key);
                self.ended.remove(&key);
            }
        }
    }
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next record goes.
    len: u64,
    /// What the last rewrite left.
    compacted: u64,
    /// Records that could not be written when they happened; they go first when it works again. At most one a
    /// held attempt that ends, since nothing new is started meanwhile.
    waiting: Vec<Record>,
}

impl Journal {
    /// One that cannot be written: every write fails with "no space left".
    #[cfg(test)]
    pub(super) fn full() -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open("/dev/full")?;
        Ok(Self { path: "/dev/full".into(), file, len: 0, compacted: 0, waiting: Vec::new() })
    }

    /// Opens or makes the journal, reads it, and cuts a torn tail.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Replay)> {
        let file = options().open(path)?;
        let mut replay = Replay::default();
        let mut reader = io::BufReader::with_capacity(RECORD * 1024, &file);
        let mut bytes = [0; RECORD];
        let (mut at, mut len) = (0u64, 0u64);
        loop {
            match reader.read_exact(&mut bytes) {
                Ok(()) => at += RECORD as u64,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                // What cannot be read now must not be cut off: it says what was started.
                Err(error) => return Err(error),
            }
            if let Some(record) = from_bytes(&bytes) {
                replay.damaged += (at - len) / RECORD as u64 - 1;
                replay.apply(&record);
                len = at;
            }
        }
        replay.torn = file.metadata()?.len().saturating_sub(len);
        if replay.torn > 0 {
            file.set_len(len)?;
        }
        Ok((Self { path: path.to_owned(), file, len, compacted: 0, waiting: Vec::new() }, replay))
    }

    /// Writes a record, and those that wait before it. After an error nothing of it counts.
    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        self.flush()?;
        self.write(record)
    }

    /// Writes a record of something that has happened whatever the disk says: what fails now is written later.
    pub(super) fn append_or_keep(&mut self, record: Record) -> io::Result<()> {
        let result = self.append(&record);
        if result.is_err() {
            self.waiting.push(record);
        }
        result
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(record) = self.waiting.first().cloned() {
            self.write(&record)?;
            self.waiting.remove(0);
        }
        Ok(())
    }

    /// Whether records wait to be written.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        // At a position, so that what a failed write left behind is overwritten by the next.
        self.file.write_all_at(&to_bytes(record), self.len)?;
        self.len += RECORD as u64;
        Ok(())
    }

    /// Sees to it that what was written outlives the machine.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether a rewrite would pay.
    pub(super) fn wants_compaction(&self) -> bool {
        self.len > COMPACT_AT.max(self.compacted * 2)
    }

    /// Replaces the journal by one that holds these records only. An error leaves the old one in place, to grow
    /// as much again before the next attempt.
    pub(super) fn rewrite(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        self.compacted = self.len;
        let new = self.path.with_extension("new");
        let _ = fs::remove_file(&new);
        let file = options().open(&new)?;
        let mut writer = io::BufWriter::with_capacity(RECORD * 1024, &file);
        let mut len = 0;
        for record in records {
            writer.write_all(&to_bytes(&record))?;
            len += RECORD as u64;
        }
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        (self.file, self.len, self.compacted) = (file, len, len);
        Ok(())
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};

    fn key(task: u32) -> AttemptKey {
        AttemptKey { life: 3, batch: u64::MAX, task, attempt: 1 }
    }

    fn outcome() -> Outcome {
        Outcome {
            signal: Some(9),
            stop_sent: true,
            output_errno: Some(28),
            size: 5,
            discarded: u64::MAX,
            end_ms: 7,
            stop_cause: Some(StopCause::TimeLimit),
            ..Outcome::default()
        }
    }

    const PLACE: Place = Place { device: 5, inode: 6, nonce: 7 };

    fn every_kind() -> Vec<Record> {
        vec![
            Record::Boot(77, PLACE),
            Record::Seen(key(0)),
            Record::Seen(key(1)),
            Record::Started { key: key(1), pid: 1234, start_ticks: 99, start_ms: 100 },
            Record::Ended { key: key(2), outcome: outcome() },
            Record::Closed(key(3)),
        ]
    }

    fn check_every_kind(replay: &Replay) {
        assert_eq!(replay.unended[&key(0)], Unended { boot: 77, place: PLACE, process: None });
        assert_eq!(replay.unended[&key(1)], Unended { boot: 77, place: PLACE, process: Some((1234, 99)) });
        assert_eq!(replay.ended[&key(2)], outcome());
        assert_eq!((replay.unended.len(), replay.ended.len()), (2, 1));
        assert!((0..4).all(|task| replay.seen.contains(key(task))) && !replay.seen.contains(key(4)));
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_not_taken_for_a_short_one() {
        // A file whose first bytes no read can have.
        assert!(Journal::open(Path::new("/proc/self/mem")).is_err());
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        for record in every_kind() {
            assert_eq!(from_bytes(&to_bytes(&record)), Some(record));
        }
        let mut bytes = to_bytes(&Record::Seen(key(0)));
        bytes[9] ^= 1;
        assert_eq!(from_bytes(&bytes), None);
        assert_eq!(from_bytes(&[0; RECORD]), None);
    }

    #[test]
    fn a_torn_tail_is_cut_and_damage_inside_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for record in every_kind() {
            journal.append(&record).unwrap();
        }
        journal.append(&Record::Closed(key(8))).unwrap();
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        // The last record loses its second half, as when the machine dies.
        file.set_len(6 * RECORD as u64 + 30).unwrap();
        let (journal, replay) = Journal::open(&path).unwrap();
        assert_eq!((replay.torn, replay.damaged, journal.len), (30, 0, 6 * RECORD as u64));
        check_every_kind(&replay);

        // One byte of the first record is wrong.
        file.seek(SeekFrom::Start(20)).unwrap();
        file.write_all(b"x").unwrap();
        let (mut journal, replay) = Journal::open(&path).unwrap();
        assert_eq!((replay.torn, replay.damaged), (0, 1));
        assert_eq!(replay.unended.len(), 2);
        assert_eq!(replay.unended[&key(1)].place, Place::default(), "nothing is known of its directory");
        journal.append(&Record::Closed(key(0))).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1.unended.len(), 1);
    }

    #[test]
    fn a_rewrite_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(&Record::Seen(key(9))).unwrap();
        journal.rewrite(every_kind().into_iter()).unwrap();
        journal.append(&Record::Closed(key(5))).unwrap();
        let (_, replay) = Journal::open(&path).unwrap();
        check_every_kind(&replay);
        assert!(replay.seen.contains(key(5)) && !replay.seen.contains(key(9)));
    }
}
