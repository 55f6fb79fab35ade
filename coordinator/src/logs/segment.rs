//! The files: `segment-NNNNNNNN.log` with records, and beside each sealed one `segment-NNNNNNNN.index` with a
//! line for each record, by attempt and offset.
//!
//! An index file is only a shortcut: one that is missing or damaged is made again from its segment. What ends in
//! `.new` is being written, or was when a crash came, and is nothing then.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use muster_proto::AttemptId;

use super::{
    Damage, Error,
    index::{Index, Piece, pieces, sort},
    record::{self, Extent, FILE_MARK, Scan, u32_at, u64_at},
    sizes::{Size, Sizes},
};

/// What is copied is written in parts of so many bytes.
const COPY_BYTES: usize = 1 << 20;
/// Then: checksum of the rest, length of the segment, the lines.
const INDEX_MARK: &[u8; 8] = b"MUSTIDX1";
const INDEX_HEADER: usize = 20;
const LINE: usize = 40;
/// How names of files end that are being written to take the place of others.
const NEW: &str = ".new";

/// The lines of an index file: each record's attempt and place.
type Lines = Vec<(AttemptId, Extent)>;

/// The segment that is written to.
pub(super) struct Active {
    pub(super) number: u32,
    pub(super) file: File,
    /// Where the next record goes.
    pub(super) length: u64,
    /// The latest time in one of its records.
    pub(super) latest: u64,
}

/// What was found.
pub(super) struct Opened {
    pub(super) index: Index,
    pub(super) sizes: Sizes,
    pub(super) active: Active,
    pub(super) damage: Vec<Damage>,
}

/// Finds what is stored, makes the last segment end with its last whole record, and syncs it.
pub(super) fn open(dir: &Path) -> Result<Opened, Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    let numbers = numbers(dir)?;
    tidy(dir, &numbers)?;
    let mut index = Index::default();
    let mut sizes = Sizes::default();
    let mut damage = Vec::new();
    let Some((&last, sealed)) = numbers.split_last() else {
        let active = create(dir, 1)?;
        sizes.set_active(active.length);
        return Ok(Opened { index, sizes, active, damage });
    };
    for &number in sealed {
        let lines = match load_index(dir, number)? {
            Some(lines) => lines,
            None => rebuild_index(dir, number, &mut damage)?,
        };
        for (attempt, piece) in pieces(number, &lines) {
            index.add_sealed(attempt, piece);
        }
        sizes.set(number, Size { log: length(&log_path(dir, number))?, index: index_length(&lines) });
    }
    let active = open_last(dir, last, &mut index, &mut damage)?;
    sizes.set_active(active.length);
    for found in &damage {
        tracing::error!(
            segment = %found.segment.display(), from = found.from, to = found.to,
            "stored output is damaged; the rest of the segment is kept"
        );
    }
    Ok(Opened { index, sizes, active, damage })
}

/// Removes what a crash may have left: files that were being written, and index files whose segments were deleted.
fn tidy(dir: &Path, numbers: &[u32]) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_prefix("segment-")) else { continue };
        let index_of = name.strip_suffix(".index").and_then(|number| number.parse::<u32>().ok());
        if name.ends_with(NEW) || index_of.is_some_and(|number| numbers.binary_search(&number).is_err()) {
            fs::remove_file(&path).map_err(failed(&path))?;
        }
    }
    Ok(())
}

/// A new and empty segment, which the folder durably lists.
pub(super) fn create(dir: &Path, number: u32) -> Result<Active, Error> {
    let path = log_path(dir, number);
    let made = || {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all_at(FILE_MARK, 0)?;
        file.sync_all()?;
        Ok(file)
    };
    let file = made().map_err(failed(&path))?;
    sync_dir(dir)?;
    Ok(Active { number, file, length: FILE_MARK.len() as u64, latest: 0 })
}

/// Makes it durable which files there are.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

fn length(path: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(path).map_err(failed(path))?.len())
}

const fn index_length(lines: &[(AttemptId, Extent)]) -> u64 {
    (INDEX_HEADER + lines.len() * LINE) as u64
}

pub(super) fn log_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("segment-{number:08}.log"))
}

pub(super) fn index_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("segment-{number:08}.index"))
}

/// For `map_err`: says which file it was.
pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    |source| Error::Io { path: path.to_owned(), source }
}

/// The segments that there are, in order.
pub(super) fn numbers(dir: &Path) -> Result<Vec<u32>, Error> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let name = entry.map_err(failed(dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("segment-")?.strip_suffix(".log"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A segment's bytes, and what they hold.
pub(super) fn read_segment(path: &Path) -> Result<(Vec<u8>, Scan), Error> {
    let bytes = fs::read(path).map_err(failed(path))?;
    if u32::try_from(bytes.len()).is_err() {
        return Err(failed(path)(io::Error::other("longer than a segment can be")));
    }
    if record::is_newer(&bytes) {
        return Err(Error::Newer(path.to_owned()));
    }
    let scan = record::scan(&bytes);
    Ok((bytes, scan))
}

fn open_last(dir: &Path, number: u32, index: &mut Index, damage: &mut Vec<Damage>) -> Result<Active, Error> {
    let path = log_path(dir, number);
    let (bytes, mut scan) = read_segment(&path)?;
    let mark = FILE_MARK.len();
    let length = scan.torn_from().unwrap_or(bytes.len()).max(mark);
    if length < bytes.len() {
        tracing::warn!(segment = %path.display(), from = length, to = bytes.len(), "cut a torn end");
    }
    scan.records.retain(|(_, extent)| (extent.position as usize) < length);
    damage.extend(damages(&path, scan.damaged.iter().filter(|range| range.end <= length)));
    let settle = || {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.set_len(length as u64)?;
        // What comes is of this version, so a segment that an older one began is from now on, too.
        file.write_all_at(FILE_MARK, 0)?;
        // A process that was killed leaves whole records that no disk has seen yet.
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    let file = settle().map_err(failed(&path))?;
    sort(&mut scan.records);
    for (attempt, extent) in scan.records {
        index.add(attempt, extent);
    }
    Ok(Active { number, file, length: length as u64, latest: scan.latest })
}

fn damages<'found>(
    path: &Path,
    ranges: impl Iterator<Item = &'found std::ops::Range<usize>>,
) -> impl Iterator<Item = Damage> {
    ranges.map(|range| Damage { segment: path.to_owned(), from: range.start as u64, to: range.end as u64 })
}

fn rebuild_index(
    dir: &Path,
    number: u32,
    damage: &mut Vec<Damage>,
) -> Result<Vec<(AttemptId, Extent)>, Error> {
    let path = log_path(dir, number);
    let (bytes, mut scan) = read_segment(&path)?;
    damage.extend(damages(&path, scan.damaged.iter()));
    sort(&mut scan.records);
    write_index(dir, number, bytes.len() as u64, &scan.records)?;
    Ok(scan.records)
}

/// Writes the index file of a segment that is complete. Not synced: it can be made again. Returns its length.
pub(super) fn write_index(
    dir: &Path,
    number: u32,
    segment_length: u64,
    lines: &[(AttemptId, Extent)],
) -> Result<u64, Error> {
    write_index_to(&index_path(dir, number), segment_length, lines)
}

fn write_index_to(path: &Path, segment_length: u64, lines: &[(AttemptId, Extent)]) -> Result<u64, Error> {
    let mut bytes = Vec::with_capacity(INDEX_HEADER + lines.len() * LINE);
    bytes.extend_from_slice(INDEX_MARK);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&segment_length.to_le_bytes());
    for (attempt, extent) in lines {
        bytes.extend_from_slice(&record::encode_attempt(*attempt));
        bytes.extend_from_slice(&extent.offset.to_le_bytes());
        bytes.extend_from_slice(&extent.position.to_le_bytes());
        bytes.extend_from_slice(&extent.length.to_le_bytes());
    }
    let sum = crc32fast::hash(&bytes[12..]);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    let written = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        io::Write::write_all(&mut file, &bytes)
    };
    written().map_err(failed(path))?;
    Ok(bytes.len() as u64)
}

/// The lines of a sealed segment, from its index file or, where that is of no use, from itself.
pub(super) fn lines(dir: &Path, number: u32) -> Result<Vec<(AttemptId, Extent)>, Error> {
    if let Some(lines) = load_index(dir, number)? {
        return Ok(lines);
    }
    let (_, mut scan) = read_segment(&log_path(dir, number))?;
    sort(&mut scan.records);
    Ok(scan.records)
}

/// Deletes a sealed segment's files. A crash in between leaves an index file without a segment.
pub(super) fn delete(dir: &Path, number: u32) -> Result<(), Error> {
    for path in [log_path(dir, number), index_path(dir, number)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// A segment with a part of the records of another, ready to take its place.
pub(super) struct Copy {
    number: u32,
    pub(super) size: Size,
    pub(super) lines: Vec<(AttemptId, Extent)>,
}

/// Copies records of a sealed segment, as they are, beside it, and syncs them. `None`: one of them is damaged.
pub(super) fn copy(
    dir: &Path,
    number: u32,
    mut lines: Vec<(AttemptId, Extent)>,
) -> Result<Option<Copy>, Error> {
    let (from, to) = (log_path(dir, number), with_new(&log_path(dir, number)));
    // In the order in which they were written, so that it is read from the front to the back.
    lines.sort_unstable_by_key(|(_, extent)| extent.position);
    let mut copied = || {
        let source = File::open(&from)?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&to)?;
        let mut out = io::BufWriter::with_capacity(COPY_BYTES, file);
        let mut length = FILE_MARK.len();
        io::Write::write_all(&mut out, FILE_MARK)?;
        for (attempt, extent) in &mut lines {
            let Some(record) = read_raw(&source, *attempt, extent)? else { return Ok(None) };
            io::Write::write_all(&mut out, &record)?;
            extent.position = length as u32;
            length += record.len();
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(Some(length as u64))
    };
    let Some(log) = copied().map_err(failed(&to))? else {
        fs::remove_file(&to).map_err(failed(&to))?;
        return Ok(None);
    };
    sort(&mut lines);
    let index = write_index_to(&with_new(&index_path(dir, number)), log, &lines)?;
    Ok(Some(Copy { number, size: Size { log, index }, lines }))
}

impl Copy {
    /// Takes the place of the segment. An index file that does not fit its segment is made again at a start.
    pub(super) fn replace(&self, dir: &Path) -> Result<(), Error> {
        for path in [log_path(dir, self.number), index_path(dir, self.number)] {
            fs::rename(with_new(&path), &path).map_err(failed(&path))?;
        }
        Ok(())
    }
}

fn with_new(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEW);
    name.into()
}

/// The lines of a segment's index file; `None` where it is missing, damaged or of another segment length.
fn load_index(dir: &Path, number: u32) -> Result<Option<Vec<(AttemptId, Extent)>>, Error> {
    let Some((segment_length, lines)) = read_index(&index_path(dir, number))? else { return Ok(None) };
    Ok((segment_length == length(&log_path(dir, number))?).then_some(lines))
}

/// The length of the segment that an index file was made for, and its lines; `None` where it is missing or damaged.
pub(super) fn read_index(path: &Path) -> Result<Option<(u64, Lines)>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(parse_index(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

fn parse_index(bytes: &[u8]) -> Option<(u64, Lines)> {
    if !bytes.starts_with(INDEX_MARK) || u32_at(bytes, 8)? != crc32fast::hash(bytes.get(12..)?) {
        return None;
    }
    let lines = bytes.get(INDEX_HEADER..)?.chunks(LINE).map(parse_line).collect::<Option<_>>()?;
    Some((u64_at(bytes, 12)?, lines))
}

fn parse_line(line: &[u8]) -> Option<(AttemptId, Extent)> {
    let extent = Extent { offset: u64_at(line, 24)?, position: u32_at(line, 32)?, length: u32_at(line, 36)? };
    Some((record::decode_attempt(line)?, extent))
}

/// A sealed segment that is being read.
pub(super) struct Sealed {
    number: u32,
    changes: u64,
    pub(super) log: File,
    index: File,
}

impl Sealed {
    /// `changes` is how often files were replaced or deleted before.
    pub(super) fn open(dir: &Path, number: u32, changes: u64) -> Result<Self, Error> {
        let (log, index) = (log_path(dir, number), index_path(dir, number));
        Ok(Self {
            number,
            changes,
            log: File::open(&log).map_err(failed(&log))?,
            index: File::open(&index).map_err(failed(&index))?,
        })
    }

    /// Whether it is this segment, as it still is.
    pub(super) const fn is(&self, number: u32, changes: u64) -> bool {
        self.number == number && self.changes == changes
    }

    /// The record with the byte at this offset, which lies in this piece; or where its output goes on.
    pub(super) fn find(
        &self,
        attempt: AttemptId,
        piece: &Piece,
        offset: u64,
    ) -> io::Result<Result<Extent, u64>> {
        // The first line after those that start at or before the offset.
        let (mut low, mut high) = (piece.first, piece.first + piece.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.line(attempt, middle)?.offset <= offset { low = middle + 1 } else { high = middle }
        }
        if low > piece.first {
            let extent = self.line(attempt, low - 1)?;
            if offset < extent.end() {
                return Ok(Ok(extent));
            }
        }
        let next = if low < piece.first + piece.count { self.line(attempt, low)?.offset } else { piece.end };
        Ok(Err(next))
    }

    fn line(&self, attempt: AttemptId, number: u32) -> io::Result<Extent> {
        let mut line = [0; LINE];
        self.index.read_exact_at(&mut line, (INDEX_HEADER + number as usize * LINE) as u64)?;
        match parse_line(&line) {
            Some((of, extent)) if of == attempt => Ok(extent),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the index file was changed")),
        }
    }
}

/// A record's output, verified.
pub(super) struct Output {
    pub(super) bytes: Bytes,
    /// When it was written, in milliseconds since 1970; `None`: by a version that kept no times.
    pub(super) time: Option<u64>,
}

/// Reads a record whole and verifies it. `None`: it is damaged.
pub(super) fn read_record(file: &File, attempt: AttemptId, extent: &Extent) -> io::Result<Option<Output>> {
    let Some(bytes) = read_raw(file, attempt, extent)? else { return Ok(None) };
    let time = record::decode(&bytes).and_then(|record| record.time);
    let header = bytes.len() - extent.length as usize;
    Ok(Some(Output { bytes: Bytes::from(bytes).slice(header..), time }))
}

/// The bytes of a record, verified. `None`: it is damaged.
fn read_raw(file: &File, attempt: AttemptId, extent: &Extent) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; extent.most_bytes()];
    let length = read_up_to(file, &mut bytes, u64::from(extent.position))?;
    bytes.truncate(length);
    let whole = record::decode(&bytes).filter(|record| {
        record.attempt == attempt
            && record.offset == extent.offset
            && record.output.len() == extent.length as usize
    });
    let Some(header) = whole.map(|record| record.header()) else { return Ok(None) };
    bytes.truncate(header + extent.length as usize);
    Ok(Some(bytes))
}

/// Fills the buffer, or as much of it as the file has from there on.
fn read_up_to(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
