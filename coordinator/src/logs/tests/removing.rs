//! Removal of output: what is kept is there byte for byte, what is removed is gone from the disk, whatever crashed.

use std::collections::BTreeMap;

use super::*;

/// Segments of a few records of 100 bytes.
pub(super) const FEW: Options = Options { segment_bytes: 1_000, queue_bytes: 10_000, group_bytes: 100 };

pub(super) fn batch(number: u64) -> BatchId {
    BatchId::new(1_700_000_000_000 + number, 5)
}

pub(super) fn of(number: u64, task: u32) -> AttemptId {
    AttemptId { batch: batch(number), ..attempt(task) }
}

/// What each attempt of some batches printed.
pub(super) type Printed = BTreeMap<AttemptId, Vec<u8>>;

/// Every batch has output in every part of the log: `rounds` times 100 bytes of each.
pub(super) async fn print(logs: &Logs, batches: std::ops::Range<u64>, rounds: usize) -> Printed {
    let mut printed = Printed::new();
    for round in 0..rounds {
        for number in batches.clone() {
            for task in 1..=2 {
                let id = of(number, task);
                let output = printed.entry(id).or_default();
                let chunk = noise(100, number * 1_000_000 + u64::from(task) * 1_000 + round as u64);
                append(logs, id, output.len() as u64, &chunk).await.unwrap();
                output.extend(chunk);
                stored(logs, id, output.len() as u64).await;
            }
        }
    }
    printed
}

async fn assert_kept(logs: &Logs, printed: &Printed, keep: impl Fn(BatchId) -> bool) {
    for (id, output) in printed {
        if keep(id.batch) {
            assert_eq!(logs.stored(*id), output.len() as u64);
            assert!(read_all(logs, *id, 0, 77).await == *output, "{id}");
        } else {
            assert_eq!(logs.stored(*id), 0);
            assert!(logs.read(*id, 0, 100).await.unwrap().is_empty());
            assert!(matches!(logs.read(*id, 1, 100).await, Err(Error::Removed)));
        }
    }
}

fn bytes_on_disk(dir: &TempDir) -> u64 {
    fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn what_is_kept_is_there_byte_for_byte_and_the_disk_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, FEW);
    let printed = print(&logs, 0..5, 20).await;
    assert_eq!(logs.bytes(), bytes_on_disk(&dir));
    let all = logs.bytes();
    assert_eq!(logs.retain(|_| true).unwrap(), Removed::default());
    // One of five: no segment is removed output for the most part.
    let keep = |id: BatchId| id >= batch(1);
    let removed = logs.remove(&HashSet::from([batch(0)])).unwrap();
    assert_eq!((removed.attempts, removed.bytes, logs.bytes()), (2, 0, all));
    assert_kept(&logs, &printed, keep).await;
    let keep = |id: BatchId| id >= batch(4);
    let removed = logs.retain(keep).unwrap();
    assert_eq!((removed.attempts, all - removed.bytes), (6, logs.bytes()));
    assert!(logs.bytes() < all / 3 && logs.bytes() == bytes_on_disk(&dir), "{} of {all}", logs.bytes());
    assert_eq!(logs.retain(keep).unwrap(), Removed::default(), "again changes nothing");
    assert_kept(&logs, &printed, keep).await;
    // What comes next is taken, also over the border of a segment.
    let next = print(&logs, 5..6, 10).await;
    drop(logs);
    for _ in 0..2 {
        let logs = open(&dir, FEW);
        assert!(logs.damage().is_empty());
        logs.retain(|id| keep(id) || id == batch(5)).unwrap();
        assert_kept(&logs, &printed, keep).await;
        assert_kept(&logs, &next, |_| true).await;
        assert_eq!(logs.bytes(), bytes_on_disk(&dir));
    }
    let logs = open(&dir, FEW);
    logs.retain(|_| false).unwrap();
    assert_eq!(segments(&dir).len(), 1, "only the one that is written to");
    assert!(logs.shared.state().index.batches().is_empty());
}

#[tokio::test]
async fn old_records_and_the_times_of_new_ones_stay_with_their_output() {
    let dir = tempfile::tempdir().unwrap();
    let mut segment = b"MUSTLOG1".to_vec();
    for task in 0..9 {
        let id = if task == 8 { of(1, 1) } else { of(0, task) };
        record::encode(&mut segment, id, 0, 8, 0, &[Bytes::from(vec![b'a'; 300])]);
        record::make_old(&mut segment, 300);
    }
    fs::write(dir.path().join("segment-00000001.log"), segment).unwrap();
    let clock = Arc::default();
    let logs = open_at(&dir, FEW, &clock);
    append_at(&logs, &clock, 7_000, of(1, 1), "new").await;
    append_at(&logs, &clock, 7_000, of(0, 20), &"x".repeat(1_000)).await;
    append_at(&logs, &clock, 7_000, of(2, 1), "next segment").await;
    for reopened in [false, true] {
        assert!(logs.retain(|id| id != batch(0)).unwrap().bytes > 0 || reopened);
        let old = logs.read_piece(of(1, 1), 0, 1_000).await.unwrap();
        assert_eq!((old.time, old.bytes.len()), (None, 300));
        let new = logs.read_piece(of(1, 1), 300, 1_000).await.unwrap();
        assert_eq!((new.time, &new.bytes[..]), (Some(7_000), &b"new"[..]));
        assert_eq!(logs.since(of(1, 1), 1).await.unwrap(), 300);
    }
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_removal_leaves_what_is_kept() {
    let before = tempfile::tempdir().unwrap();
    let logs = open(&before, FEW);
    let printed = print(&logs, 0..4, 8).await;
    drop(logs);
    let after = tempfile::tempdir().unwrap();
    copy_dir(before.path(), after.path());
    let keep = |id: BatchId| id == batch(3);
    open(&after, FEW).retain(keep).unwrap();
    let rewritten: Vec<_> = segments(&before)
        .into_iter()
        .filter(|path| {
            let now = after.path().join(path.file_name().unwrap());
            now.metadata().is_ok_and(|now| now.len() < path.metadata().unwrap().len())
        })
        .collect();
    assert!(rewritten.len() > 2);
    for (place, path) in rewritten.iter().enumerate() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let index = name.replace(".log", ".index");
        // Files of the new state that are there already, under which names.
        let steps: [&[(&str, String)]; 5] = [
            &[(&name, format!("{name}.new"))],
            &[(&name, format!("{name}.new")), (&index, format!("{index}.new"))],
            &[(&name, name.clone()), (&index, format!("{index}.new"))],
            // The disk may see the second renaming first.
            &[(&index, index.clone()), (&name, format!("{name}.new"))],
            &[(&name, name.clone()), (&index, index.clone())],
        ];
        for step in steps {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(before.path(), dir.path());
            for (from, to) in step {
                let mut bytes = fs::read(after.path().join(from)).unwrap();
                if to.ends_with(".new") && place == 0 {
                    bytes.truncate(bytes.len() / 2);
                }
                fs::write(dir.path().join(to), bytes).unwrap();
            }
            let logs = open(&dir, FEW);
            assert!(logs.damage().is_empty());
            let files = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
            assert!(files.filter(|name| name.to_str().unwrap().ends_with(".new")).count() == 0);
            let kept: Printed =
                printed.iter().filter(|(id, _)| keep(id.batch)).map(|(id, out)| (*id, out.clone())).collect();
            assert_kept(&logs, &kept, keep).await;
            logs.retain(keep).unwrap();
            assert_kept(&logs, &printed, keep).await;
            assert_eq!((logs.bytes(), bytes_on_disk(&dir)), (bytes_on_disk(&after), bytes_on_disk(&after)));
        }
    }
    // A segment that was deleted may leave its index file.
    let dir = tempfile::tempdir().unwrap();
    copy_dir(before.path(), dir.path());
    let logs = open(&dir, FEW);
    logs.retain(|_| false).unwrap();
    drop(logs);
    let orphan = rewritten[0].with_extension("index");
    fs::copy(&orphan, dir.path().join(orphan.file_name().unwrap())).unwrap();
    let logs = open(&dir, FEW);
    assert!(!dir.path().join(orphan.file_name().unwrap()).exists());
    assert_eq!(logs.bytes(), bytes_on_disk(&dir));
}

pub(super) fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn a_segment_whose_kept_output_is_damaged_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, FEW);
    let printed = print(&logs, 0..4, 4).await;
    let path = segments(&dir).remove(0);
    let bytes = fs::read(&path).unwrap();
    let kept = of(3, 1);
    let output = &printed[&kept];
    let place = bytes.windows(100).position(|window| *window == output[..100]).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"!!", place as u64).unwrap();
    let damaged = fs::read(&path).unwrap();
    logs.retain(|id| id == batch(3)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), damaged);
    assert!(matches!(logs.read(kept, 0, 100).await, Err(Error::Damaged { from: 0, to: 100 })));
    assert!(read_all(&logs, kept, 100, 99).await == output[100..]);
    assert_eq!(logs.bytes(), bytes_on_disk(&dir));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_and_writers_go_on_while_output_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, FEW);
    let printed = Arc::new(print(&logs, 0..8, 6).await);
    let (kept, gone) = (of(7, 1), of(0, 1));
    let reading = {
        let (logs, printed) = (logs.clone(), Arc::clone(&printed));
        tokio::spawn(async move {
            let mut rounds = 0;
            let mut removed = false;
            // Until all that can be removed is, and a while after.
            while logs.shared.state().index.batches().contains(&batch(6)) || rounds < 20 {
                rounds += 1;
                assert!(read_all(&logs, kept, 0, 150).await == printed[&kept]);
                if removed {
                    continue;
                }
                for offset in (0..600).step_by(50) {
                    match logs.read(gone, offset, 50).await {
                        Ok(bytes) if !bytes.is_empty() => {
                            assert_eq!(bytes, printed[&gone][offset as usize..offset as usize + 50]);
                        }
                        Ok(_) => assert_eq!(offset, 0),
                        Err(Error::Removed) => removed = true,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    };
    let follower = logs.subscribe(gone);
    for number in 0..7 {
        let remover = logs.clone();
        tokio::task::spawn_blocking(move || remover.retain(|id| id > batch(number))).await.unwrap().unwrap();
        print(&logs, 8 + number..9 + number, 2).await;
    }
    reading.await.unwrap();
    assert!(follower.has_changed().is_err(), "who follows it is told that nothing more comes");
    assert_kept(&logs, &printed, |id| id >= batch(7)).await;
    assert_eq!(logs.bytes(), bytes_on_disk(&dir));
}

#[tokio::test]
async fn what_is_appended_to_removed_output_must_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, FEW);
    print(&logs, 0..1, 2).await;
    logs.retain(|_| false).unwrap();
    let gap = append(&logs, of(0, 1), 200, b"late").await.unwrap_err();
    assert!(matches!(gap, Error::Gap { expected: 0 }), "{gap}");
}
