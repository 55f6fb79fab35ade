//! Looks through the folder of a coordinator that does not run, and says what is wrong. Changes and repairs nothing.
//!
//! Every record of every segment is read and its checksum verified, index files are compared with their segments,
//! and each attempt's records must follow each other without a gap. What only the store knows is left to the caller:
//! compare `Report::stored` with the sizes that attempts ended with, since a segment whose loss leaves no gap is
//! missed by that alone.
//!
//! Memory: one segment at a time, about 100 bytes for each attempt with output, and a bounded number of findings.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use muster_proto::{AttemptId, BatchId};

use super::{
    Damage, Error,
    index::sort,
    record::{Extent, FILE_MARK, Scan},
    segment,
};

/// So many findings are kept; more are counted.
pub const MAX_FINDINGS: usize = 1_000;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A part of a segment is no record, or was cut off: output is lost.
    Damaged(Damage),
    /// Bytes of an attempt's output are in no segment, though later ones are: output is lost.
    Missing {
        /// Whose.
        attempt: AttemptId,
        /// The first byte that is missing.
        from: u64,
        /// The first byte that is there again.
        to: u64,
    },
    /// An index file is missing, damaged or of another segment. Nothing is lost: it is made again at the next start.
    BadIndex(PathBuf),
    /// An index file is whole and says something else than its segment: output may be hidden. Delete it; it is made
    /// again at the next start.
    WrongIndex(PathBuf),
    /// A file cannot be read, or is of a newer version.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl Finding {
    /// Whether output is lost or hidden. Otherwise the next start sets it right.
    pub const fn is_loss(&self) -> bool {
        !matches!(self, Self::BadIndex(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(Damage { segment, from, to }) => {
                write!(f, "{}: damaged from byte {from} to byte {to}", segment.display())
            }
            Self::Missing { attempt, from, to } => {
                write!(f, "output of {attempt} is missing from byte {from} to byte {to}")
            }
            Self::BadIndex(path) => {
                write!(f, "{}: missing or damaged; made again at the next start", path.display())
            }
            Self::WrongIndex(path) => {
                write!(f, "{}: does not fit its segment; delete it, it is made again", path.display())
            }
            Self::Unreadable { path, why } => write!(f, "{}: {why}", path.display()),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments that were read.
    pub segments: usize,
    /// Good records in them.
    pub records: u64,
    /// Bytes of the segments.
    pub bytes: u64,
    /// What is wrong, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: u64,
    /// The end of the last segment that a crash left and the next start cuts: nothing of it was told to be stored.
    pub torn: Option<Damage>,
    /// Numbers of segments that are not there, between those that are. Removing output leaves such gaps; output that is
    /// lost with a segment shows as [`Finding::Missing`], or as less in `stored` than the store knows of.
    pub absent: Vec<RangeInclusive<u32>>,
    /// Up to which offset each attempt of a batch that is kept has output.
    pub stored: BTreeMap<AttemptId, u64>,
}

impl Report {
    /// Nothing is lost and nothing hidden, as far as can be told from here.
    pub fn is_sound(&self) -> bool {
        self.more_findings == 0 && !self.findings.iter().any(Finding::is_loss)
    }

    fn find(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}

/// Looks through a folder that no coordinator has open; one that does not exist has no segments. `is_kept` says which
/// batches there are: what is left of others is passed over, since a part of it may have been removed. Blocks. Errors
/// only where the folder itself cannot be listed.
pub fn check(dir: &Path, is_kept: impl Fn(BatchId) -> bool) -> Result<Report, Error> {
    let numbers = match segment::numbers(dir) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
        numbers => numbers?,
    };
    let mut check =
        Check { dir, is_kept: Kept { is_kept, known: HashMap::new() }, report: Report::default() };
    for pair in numbers.windows(2) {
        if let &[before, after] = pair
            && after - before > 1
        {
            check.report.absent.push(before + 1..=after - 1);
        }
    }
    for number in &numbers {
        if let Err(error) = check.segment(*number, numbers.last() == Some(number)) {
            let (path, why) = match error {
                Error::Io { path, source } => (path, source.to_string()),
                error => (segment::log_path(dir, *number), error.to_string()),
            };
            check.report.find(Finding::Unreadable { path, why });
        }
    }
    Ok(check.report)
}

/// Asks once about each batch.
struct Kept<F> {
    is_kept: F,
    known: HashMap<BatchId, bool>,
}

impl<F: Fn(BatchId) -> bool> Kept<F> {
    fn is(&mut self, attempt: AttemptId) -> bool {
        *self.known.entry(attempt.batch).or_insert_with(|| (self.is_kept)(attempt.batch))
    }
}

struct Check<'dir, F> {
    dir: &'dir Path,
    is_kept: Kept<F>,
    report: Report,
}

impl<F: Fn(BatchId) -> bool> Check<'_, F> {
    fn segment(&mut self, number: u32, last: bool) -> Result<(), Error> {
        let path = segment::log_path(self.dir, number);
        let (bytes, mut scan) = segment::read_segment(&path)?;
        let length = bytes.len() as u64;
        drop(bytes);
        let report = &mut self.report;
        report.segments += 1;
        report.bytes += length;
        report.records += scan.records.len() as u64;
        let damage = |from: u64, to: u64| Damage { segment: path.clone(), from, to };
        if last && let Some(from) = scan.torn_from() {
            report.torn = Some(damage(from as u64, length));
            scan.records.retain(|(_, extent)| (extent.position as usize) < from);
            scan.damaged.retain(|range| range.start < from);
        }
        for range in &scan.damaged {
            report.find(Finding::Damaged(damage(range.start as u64, range.end as u64)));
        }
        if length == 0 && !last {
            report.find(Finding::Damaged(damage(0, FILE_MARK.len() as u64)));
        }
        scan.records.retain(|(attempt, _)| self.is_kept.is(*attempt));
        sort(&mut scan.records);
        for (attempt, extent) in &scan.records {
            self.follow(*attempt, extent);
        }
        if !last {
            self.index(number, length, &scan)?;
        }
        Ok(())
    }

    /// The next record of an attempt, by segment and offset.
    fn follow(&mut self, attempt: AttemptId, extent: &Extent) {
        let stored = self.report.stored.entry(attempt).or_default();
        let from = *stored;
        *stored = from.max(extent.end());
        if extent.offset > from {
            self.report.find(Finding::Missing { attempt, from, to: extent.offset });
        }
    }

    /// Compares the index file of a sealed segment with the segment's good records of kept batches.
    fn index(&mut self, number: u32, length: u64, scan: &Scan) -> Result<(), Error> {
        let path = segment::index_path(self.dir, number);
        let Some((length_then, mut lines)) = segment::read_index(&path)? else {
            self.report.find(Finding::BadIndex(path));
            return Ok(());
        };
        lines.retain(|(attempt, _)| self.is_kept.is(*attempt));
        let places: HashMap<_, _> = scan
            .records
            .iter()
            .map(|(attempt, extent)| ((*attempt, extent.offset, extent.length), extent.position))
            .collect();
        // One that broke has been told already.
        let broke = |position: u32| scan.damaged.iter().any(|range| range.contains(&(position as usize)));
        let (mut found, mut wrong) = (0, false);
        for (attempt, extent) in &lines {
            match places.get(&(*attempt, extent.offset, extent.length)) {
                Some(position) => {
                    found += 1;
                    wrong |= *position != extent.position;
                }
                None => wrong |= !broke(extent.position),
            }
        }
        wrong |= found != places.len();
        let finding = if length_then == length {
            wrong.then_some(Finding::WrongIndex(path))
        } else if length_then > length && lines.len() > found {
            // A segment that was written anew without removed output has all the rest.
            let segment = segment::log_path(self.dir, number);
            Some(Finding::Damaged(Damage { segment, from: length, to: length_then }))
        } else {
            Some(Finding::BadIndex(path))
        };
        if let Some(finding) = finding {
            self.report.find(finding);
        }
        Ok(())
    }
}
