//! What the check of a folder finds, and that it changes nothing.

use super::{
    removing::{FEW, Printed, batch, copy_dir, of, print},
    *,
};
use crate::logs::check::{Finding, Report, check};

/// A folder with a few segments.
async fn folder() -> (TempDir, Printed) {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, FEW);
    let printed = print(&logs, 0..3, 10).await;
    (dir, printed)
}

/// Checks, and that nothing was touched.
fn look(dir: &TempDir) -> Report {
    let files = |dir: &TempDir| {
        let paths = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<HashMap<_, _>>()
    };
    let before = files(dir);
    let report = check(dir.path(), |_| true).unwrap();
    assert!(files(dir) == before);
    report
}

#[tokio::test]
async fn a_sound_folder_has_all_output_and_no_findings() {
    let (dir, printed) = folder().await;
    let report = look(&dir);
    assert!(report.is_sound() && report.findings.is_empty() && report.torn.is_none(), "{report:?}");
    assert_eq!((report.segments, report.records), (segments(&dir).len(), 60));
    let bytes: u64 = segments(&dir).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!((report.bytes, report.absent.len()), (bytes, 0));
    let sizes = printed.iter().map(|(id, output)| (*id, output.len() as u64)).collect();
    assert_eq!(report.stored, sizes);
    assert_eq!(check(&dir.path().join("none"), |_| true).unwrap(), Report::default());
}

#[tokio::test]
async fn a_flipped_bit_is_found_wherever_it_is() {
    let (good, _) = folder().await;
    let count = segments(&good).len();
    for place in 0..count {
        let length = segments(&good)[place].metadata().unwrap().len() as usize;
        for at in (0..length).step_by(13) {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(good.path(), dir.path());
            let path = segments(&dir)[place].clone();
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            let report = look(&dir);
            let told = report.findings.iter().any(|finding| match finding {
                Finding::Damaged(damage) => {
                    damage.segment == path && (damage.from..damage.to).contains(&(at as u64))
                }
                Finding::Unreadable { path: of, .. } => *of == path,
                _ => false,
            });
            // In the last group of the last segment, damage looks like what a crash leaves.
            let torn =
                report.torn.as_ref().is_some_and(|torn| torn.segment == path && torn.from <= at as u64);
            assert!(told && !report.is_sound() || torn && place + 1 == count, "{place} {at} {report:?}");
        }
    }
}

#[tokio::test]
async fn a_cut_segment_is_found_also_where_a_record_ends() {
    let (good, printed) = folder().await;
    let path = segments(&good).remove(1);
    let record = HEADER + 100;
    for length in [0, 5, 8, 8 + record, 8 + 2 * record, 8 + 2 * record + 7] {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(good.path(), dir.path());
        let cut = dir.path().join(path.file_name().unwrap());
        OpenOptions::new().write(true).open(&cut).unwrap().set_len(length as u64).unwrap();
        let report = look(&dir);
        let is_told =
            |finding: &Finding| matches!(finding, Finding::Damaged(damage) if damage.segment == cut);
        assert!(!report.is_sound() && report.findings.iter().any(is_told), "{length} {report:?}");
        assert!(report.findings.iter().any(|finding| matches!(finding, Finding::Missing { .. })));
    }
    // The last one ends where it ends: what is gone is told by what the store knows.
    let last = segments(&good).pop().unwrap();
    let length = last.metadata().unwrap().len();
    let file = OpenOptions::new().write(true).open(&last).unwrap();
    file.set_len(length - 1).unwrap();
    let report = look(&good);
    assert!(report.is_sound() && report.torn.is_some(), "{report:?}");
    file.set_len(length - record as u64).unwrap();
    let report = look(&good);
    assert!(report.is_sound() && report.torn.is_none(), "{report:?}");
    let short: Vec<_> =
        printed.iter().filter(|(id, output)| report.stored[id] < output.len() as u64).collect();
    assert_eq!(short.len(), 1);
}

#[tokio::test]
async fn a_segment_that_is_missing_in_the_middle_shows_in_the_output() {
    let (dir, printed) = folder().await;
    let path = segments(&dir).remove(2);
    fs::remove_file(&path).unwrap();
    let report = look(&dir);
    assert!(!report.is_sound());
    assert_eq!(report.absent, [3..=3]);
    let missing = report.findings.iter().filter(|finding| matches!(finding, Finding::Missing { .. })).count();
    assert!((1..=printed.len()).contains(&missing) && missing == report.findings.len(), "{report:?}");
    // Of batches that are no more, nothing is missed.
    let report = check(dir.path(), |_| false).unwrap();
    assert!(report.is_sound() && report.stored.is_empty());
}

#[tokio::test]
async fn index_files_are_compared_with_their_segments() {
    let (dir, _) = folder().await;
    let index = segments(&dir)[0].with_extension("index");
    let good = fs::read(&index).unwrap();
    for bad in [&good[..good.len() - 1], b"", &[0; 100]] {
        fs::write(&index, bad).unwrap();
        let report = look(&dir);
        assert_eq!(report.findings, [Finding::BadIndex(index.clone())]);
        assert!(report.is_sound(), "made again at the next start");
    }
    // Whole, and of something else.
    let number = |path: &Path| path.file_stem().unwrap().to_str().unwrap()[8..].parse().unwrap();
    let lines = segment::lines(dir.path(), number(&segments(&dir)[0])).unwrap();
    let length = segments(&dir)[0].metadata().unwrap().len();
    let mut moved = lines.clone();
    moved[0].1.position += 1;
    for wrong in [&lines[1..], &moved, &[]] {
        segment::write_index(dir.path(), 1, length, wrong).unwrap();
        let report = look(&dir);
        assert_eq!(
            (report.findings.as_slice(), report.is_sound()),
            (&[Finding::WrongIndex(index.clone())][..], false)
        );
    }
    segment::write_index(dir.path(), 1, length, &lines).unwrap();
    assert!(look(&dir).findings.is_empty());
}

#[tokio::test]
async fn what_a_removal_leaves_is_sound_also_after_a_crash_in_it() {
    let (dir, _) = folder().await;
    let before = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), before.path());
    let keep = |id| id == batch(2);
    open(&dir, FEW).retain(keep).unwrap();
    let report = check(dir.path(), keep).unwrap();
    assert!(report.is_sound() && report.findings.is_empty(), "{report:?}");
    assert_eq!(report.stored.keys().copied().collect::<Vec<_>>(), [of(2, 1), of(2, 2)]);
    // The new segment beside the old index file.
    let name = segments(&dir)[1].file_name().unwrap().to_owned();
    fs::copy(dir.path().join(&name), before.path().join(&name)).unwrap();
    let report = check(before.path(), keep).unwrap();
    let index = before.path().join(name).with_extension("index");
    assert_eq!((report.findings.as_slice(), report.is_sound()), (&[Finding::BadIndex(index)][..], true));
}

#[tokio::test]
async fn a_newer_segment_is_named_and_the_others_are_looked_through() {
    let (dir, _) = folder().await;
    let path = segments(&dir).remove(0);
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"MUSTLOG9", 0).unwrap();
    let report = look(&dir);
    let named = |finding: &Finding| matches!(finding, Finding::Unreadable { path: of, .. } if *of == path);
    assert!(report.findings.iter().any(named) && report.segments == segments(&dir).len() - 1);
}
