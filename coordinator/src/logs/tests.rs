//! What callers of the logs were promised, over restarts, crashes and damage.

mod checking;
mod removing;

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    record::{HEADER, attempt},
    *,
};

const SMALL: Options = Options { segment_bytes: 2_000, queue_bytes: 10_000, group_bytes: 1_000 };

fn open(dir: &TempDir, options: Options) -> Logs {
    Logs::open(dir.path(), options, |_, _| {}).unwrap()
}

async fn stored(logs: &Logs, attempt: AttemptId, offset: u64) {
    logs.subscribe(attempt).wait_for(|stored| *stored >= offset).await.unwrap();
}

async fn append(logs: &Logs, attempt: AttemptId, offset: u64, data: &[u8]) -> Result<(), Error> {
    logs.append(attempt, offset, Bytes::copy_from_slice(data)).await
}

/// Everything from an offset on, in readings of at most `max`.
async fn read_all(logs: &Logs, attempt: AttemptId, offset: u64, max: usize) -> Vec<u8> {
    let mut found = Vec::new();
    loop {
        let piece = logs.read(attempt, offset + found.len() as u64, max).await.unwrap();
        assert!(piece.len() <= max);
        if piece.is_empty() {
            return found;
        }
        found.extend_from_slice(&piece);
    }
}

fn segments(dir: &TempDir) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn output_is_kept_once_and_in_order_however_it_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, Options::default());
    let (a, b) = (attempt(1), attempt(2));
    append(&logs, a, 0, b"hello ").await.unwrap();
    append(&logs, a, 6, b"world").await.unwrap();
    append(&logs, a, 0, b"hello ").await.unwrap();
    append(&logs, a, 3, b"lo world, again").await.unwrap();
    append(&logs, a, 18, b"").await.unwrap();
    let gap = append(&logs, a, 19, b"too far").await.unwrap_err();
    assert!(matches!(gap, Error::Gap { expected: 18 }), "{gap}");
    let gap = append(&logs, b, 1, b"no beginning").await.unwrap_err();
    assert!(matches!(gap, Error::Gap { expected: 0 }), "{gap}");
    assert!(append(&logs, b, u64::MAX, b"overflow").await.is_err());
    stored(&logs, a, 18).await;
    assert_eq!(read_all(&logs, a, 0, 100).await, b"hello world, again");
    assert_eq!(read_all(&logs, a, 0, 1).await, b"hello world, again");
    assert_eq!(read_all(&logs, a, 13, 100).await, b"again");
    assert_eq!((logs.stored(a), logs.stored(b)), (18, 0));
    for offset in [18, 19, u64::MAX] {
        assert!(logs.read(a, offset, 100).await.unwrap().is_empty());
    }
    assert!(logs.read(b, 0, 100).await.unwrap().is_empty());
}

#[tokio::test]
async fn stored_is_told_after_each_sync_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, told) = std_mpsc::channel();
    let logs = Logs::open(dir.path(), SMALL, move |id, offset| sender.send((id, offset)).unwrap()).unwrap();
    for task in 1..=50 {
        append(&logs, attempt(task), 0, &noise(task as usize * 10, u64::from(task))).await.unwrap();
    }
    logs.close();
    let refused = append(&logs, attempt(1), 10, b"late").await.unwrap_err();
    assert!(matches!(refused, Error::Closed), "{refused}");
    assert!(logs.subscribe(attempt(1)).changed().await.is_err(), "nothing more comes");
    drop(logs);
    let mut told: Vec<_> = told.iter().collect();
    told.sort_unstable();
    let expected: Vec<_> = (1..=50).map(|task| (attempt(task), u64::from(task) * 10)).collect();
    assert_eq!(told, expected);
    assert!(segments(&dir).len() > 3);

    let logs = open(&dir, SMALL);
    assert!(logs.damage().is_empty());
    for task in 1..=50 {
        assert_eq!(logs.stored(attempt(task)), u64::from(task) * 10);
        assert_eq!(*logs.subscribe(attempt(task)).borrow(), u64::from(task) * 10);
        let output = noise(task as usize * 10, u64::from(task));
        assert_eq!(read_all(&logs, attempt(task), 0, 300).await, output);
    }
    append(&logs, attempt(1), 10, b"more").await.unwrap();
    stored(&logs, attempt(1), 14).await;
    assert_eq!(read_all(&logs, attempt(1), 10, 300).await, b"more");
}

#[tokio::test]
async fn a_follower_sees_output_as_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, SMALL);
    let follower = {
        let logs = logs.clone();
        let mut offset = logs.subscribe(attempt(1));
        tokio::spawn(async move {
            let mut found = Vec::new();
            while found.len() < 20_000 {
                offset.wait_for(|stored| *stored > found.len() as u64).await.unwrap();
                found.extend(read_all(&logs, attempt(1), found.len() as u64, 777).await);
            }
            found
        })
    };
    let output = noise(20_000, 3);
    for (place, chunk) in output.chunks(123).enumerate() {
        append(&logs, attempt(1), place as u64 * 123, chunk).await.unwrap();
        append(&logs, attempt(2), place as u64, b"x").await.unwrap();
    }
    assert!(follower.await.unwrap() == output);
}

#[tokio::test]
async fn much_output_goes_over_segments_of_the_usual_size() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 16 << 20, ..Options::default() };
    let logs = open(&dir, options);
    let (size, chunk) = (50 << 20, 256 << 10);
    let output = Bytes::from(noise(size, 9));
    for start in (0..size).step_by(chunk) {
        logs.append(attempt(1), start as u64, output.slice(start..start + chunk)).await.unwrap();
    }
    // One chunk may be bigger than the whole queue.
    logs.append(attempt(2), 0, output.slice(..20 << 20)).await.unwrap();
    stored(&logs, attempt(1), size as u64).await;
    stored(&logs, attempt(2), 20 << 20).await;
    assert!(segments(&dir).len() >= 4);
    assert!(read_all(&logs, attempt(1), 0, usize::MAX - 1).await.len() == size);
    drop(logs);
    let logs = open(&dir, options);
    assert!(read_all(&logs, attempt(1), 0, MAX_READ).await == output);
    assert!(read_all(&logs, attempt(2), 0, MAX_READ).await == output[..20 << 20]);
}

#[tokio::test]
async fn many_attempts_share_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, Options::default());
    for task in 1..=2_000 {
        append(&logs, attempt(task), 0, format!("task {task}").as_bytes()).await.unwrap();
    }
    for task in 1..=2_000 {
        let text = format!("task {task}");
        stored(&logs, attempt(task), text.len() as u64).await;
        assert_eq!(logs.read(attempt(task), 0, 100).await.unwrap(), text);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_torn_end_is_cut_and_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, Options::default());
    append(&logs, attempt(1), 0, b"synced").await.unwrap();
    stored(&logs, attempt(1), 6).await;
    let whole = fs::metadata(&segments(&dir)[0]).unwrap().len();
    append(&logs, attempt(1), 6, b" torn").await.unwrap();
    drop(logs);
    let path = segments(&dir).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    for cut in whole as usize..bytes.len() {
        // A crash leaves a part of the group, or zeros where it should be.
        for zeros in [0, 5_000] {
            let mut left = bytes[..cut].to_vec();
            left.resize(cut + zeros, 0);
            fs::write(&path, left).unwrap();
            let logs = open(&dir, Options::default());
            assert_eq!(logs.stored(attempt(1)), 6);
            assert!(logs.damage().is_empty());
            append(&logs, attempt(1), 6, b" again").await.unwrap();
            stored(&logs, attempt(1), 12).await;
            assert_eq!(read_all(&logs, attempt(1), 0, 100).await, b"synced again");
        }
    }
    for left in [&b""[..], b"MUST", &[0; 8], &[0; 4_096]] {
        fs::write(&path, left).unwrap();
        let logs = open(&dir, Options::default());
        append(&logs, attempt(1), 0, b"anew").await.unwrap();
        drop(logs);
        assert_eq!(open(&dir, Options::default()).stored(attempt(1)), 4);
    }
}

#[tokio::test]
async fn a_good_record_after_a_torn_one_in_the_last_group_is_not_taken_for_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut segment = record::FILE_MARK.to_vec();
    record::encode(&mut segment, attempt(1), 0, 8, 1, &[Bytes::from_static(b"old ")]);
    let group = segment.len();
    record::encode(&mut segment, attempt(1), 4, group as u32, 2, &[Bytes::from_static(b"lost")]);
    record::encode(&mut segment, attempt(2), 0, group as u32, 2, &[Bytes::from_static(b"kept")]);
    record::encode(&mut segment, attempt(1), 8, group as u32, 2, &[Bytes::from_static(b"kept")]);
    segment[group + HEADER] ^= 1;
    fs::write(dir.path().join("segment-00000007.log"), segment).unwrap();
    let logs = open(&dir, Options::default());
    assert_eq!((logs.stored(attempt(1)), logs.stored(attempt(2))), (4, 0));
}

#[tokio::test]
async fn damage_costs_its_own_record_and_nothing_else() {
    for sealed in [false, true] {
        for rebuilt in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let options = Options { segment_bytes: if sealed { 200 } else { 1 << 20 }, ..Options::default() };
            let logs = open(&dir, options);
            for (offset, text) in [(0, "aaaa"), (4, "bbbb"), (8, "cccc")] {
                append(&logs, attempt(1), offset, text.as_bytes()).await.unwrap();
                stored(&logs, attempt(1), offset + 4).await;
            }
            append(&logs, attempt(2), 0, &[b'x'; 500]).await.unwrap();
            stored(&logs, attempt(2), 500).await;
            append(&logs, attempt(2), 500, b"y").await.unwrap();
            drop(logs);
            assert_eq!(segments(&dir).len() > 1, sealed);
            let path = segments(&dir).remove(0);
            let second = record::FILE_MARK.len() + HEADER + 4;
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"!", (second + HEADER) as u64).unwrap();
            if rebuilt && sealed {
                fs::remove_file(path.with_extension("index")).unwrap();
            }
            let logs = open(&dir, options);
            // Found at once where the records are read at the start, else when they are asked for.
            let damage = Damage { segment: path, from: second as u64, to: (second + HEADER + 4) as u64 };
            assert_eq!(logs.damage(), if sealed && !rebuilt { vec![] } else { vec![damage] });
            assert_eq!(logs.stored(attempt(1)), 12);
            assert_eq!(logs.read(attempt(1), 0, 100).await.unwrap(), "aaaa");
            let error = logs.read(attempt(1), 5, 100).await.unwrap_err();
            assert!(matches!(error, Error::Damaged { from: 5, to: 8 }), "{error}");
            assert_eq!(logs.read(attempt(1), 8, 100).await.unwrap(), "cccc");
            assert_eq!(read_all(&logs, attempt(2), 0, 1_000).await.len(), 501);
        }
    }
}

#[tokio::test]
async fn an_index_file_is_made_again_where_it_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, SMALL);
    let output = noise(9_000, 4);
    for (place, chunk) in output.chunks(90).enumerate() {
        append(&logs, attempt(1), place as u64 * 90, chunk).await.unwrap();
        stored(&logs, attempt(1), (place as u64 + 1) * 90).await;
    }
    drop(logs);
    let index = segments(&dir)[0].with_extension("index");
    let good = fs::read(&index).unwrap();
    for bad in [good[..good.len() - 1].to_vec(), vec![], vec![0; good.len()]] {
        fs::write(&index, bad).unwrap();
        assert!(read_all(&open(&dir, SMALL), attempt(1), 0, 1_000).await == output);
        assert_eq!(fs::read(&index).unwrap(), good);
    }
}

#[tokio::test]
async fn a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment-00000001.log");
    fs::write(&path, b"MUSTLOG3whatever").unwrap();
    let Err(error) = Logs::open(dir.path(), SMALL, |_, _| {}) else { panic!("opened") };
    assert!(matches!(error, Error::Newer(_)) && error.to_string().contains("segment-00000001"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"MUSTLOG3whatever");
}

#[tokio::test]
async fn a_failed_write_is_told_and_nothing_more_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(&dir, SMALL);
    append(&logs, attempt(1), 0, &[b'x'; 2_500]).await.unwrap();
    stored(&logs, attempt(1), 2_500).await;
    let mut follower = logs.subscribe(attempt(1));
    // The next segment cannot be made.
    fs::write(dir.path().join("segment-00000002.log"), "in the way").unwrap();
    append(&logs, attempt(1), 2_500, b"lost").await.unwrap();
    let why = logs.failed().await;
    assert!(why.contains("segment-00000002"), "{why}");
    assert!(follower.changed().await.is_err());
    let refused = append(&logs, attempt(1), 2_504, b"more").await.unwrap_err();
    assert!(matches!(refused, Error::Failed(_)), "{refused}");
    assert_eq!(logs.stored(attempt(1)), 2_500);
    assert_eq!(logs.read(attempt(1), 2_499, 100).await.unwrap(), "x");
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (let_go, held) = std_mpsc::channel::<()>();
    let logs = Logs::open(dir.path(), SMALL, move |_, _| held.recv().unwrap_or(())).unwrap();
    // The writer hangs in its first callback; then the queue fills up.
    append(&logs, attempt(1), 0, b"x").await.unwrap();
    stored(&logs, attempt(1), 1).await;
    append(&logs, attempt(2), 0, &[b'x'; 9_000]).await.unwrap();
    let waiting = logs.append(attempt(2), 9_000, Bytes::from(vec![b'y'; 9_000]));
    tokio::pin!(waiting);
    assert!(futures_now(waiting.as_mut()).is_none(), "it waits");
    drop(let_go);
    waiting.await.unwrap();
    stored(&logs, attempt(2), 18_000).await;
}

/// The result of a future if it is ready at once.
fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

/// A clock that a test sets.
fn open_at(dir: &TempDir, options: Options, clock: &Arc<AtomicU64>) -> Logs {
    let clock = Arc::clone(clock);
    Logs::open_at(dir.path(), options, move || clock.load(Ordering::SeqCst), |_, _| {}).unwrap()
}

async fn append_at(logs: &Logs, clock: &AtomicU64, time: u64, attempt: AttemptId, text: &str) {
    clock.store(time, Ordering::SeqCst);
    let offset = logs.stored(attempt);
    append(logs, attempt, offset, text.as_bytes()).await.unwrap();
    stored(logs, attempt, offset + text.len() as u64).await;
}

#[tokio::test]
async fn a_piece_has_its_time_and_what_is_a_second_younger_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::default();
    let logs = open_at(&dir, Options::default(), &clock);
    for (time, text) in [(5_000, "a"), (5_400, "b"), (6_000, "c"), (6_001, "d"), (9_000, "e")] {
        append_at(&logs, &clock, time, attempt(1), text).await;
    }
    let mut found = Vec::new();
    let mut offset = 0;
    loop {
        let Piece { bytes, time } = logs.read_piece(attempt(1), offset, 100).await.unwrap();
        if bytes.is_empty() {
            break;
        }
        offset += bytes.len() as u64;
        found.push((time, bytes));
    }
    assert_eq!(
        found,
        [(Some(5_000), Bytes::from("abc")), (Some(6_001), Bytes::from("d")), (Some(9_000), Bytes::from("e"))]
    );
    assert_eq!(logs.read(attempt(1), 0, 100).await.unwrap(), "abcde");
}

#[tokio::test]
async fn times_are_found_over_segments_and_restarts_and_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 300, ..SMALL };
    let clock = Arc::default();
    let mut logs = open_at(&dir, options, &clock);
    // The clock is set back in the middle; the coordinator is restarted while it is.
    let times = (0..40_u64).map(|n| if n < 20 { 1_000 * n } else { 1_000 * n - 5_000 });
    let mut expected = Vec::new();
    for (n, time) in (0..).zip(times) {
        if n == 22 {
            drop(logs);
            logs = open_at(&dir, options, &clock);
        }
        append_at(&logs, &clock, time, attempt(1), "0123456789").await;
        append_at(&logs, &clock, time, attempt(2), "x").await;
        expected.push(time.max(expected.last().copied().unwrap_or(0)));
    }
    assert!(segments(&dir).len() > 5);
    for reopened in [false, true] {
        if reopened {
            drop(logs);
            logs = open_at(&dir, options, &clock);
        }
        for since in (0..40_000).step_by(500) {
            let first = expected.iter().position(|time| *time >= since).unwrap_or(expected.len());
            assert_eq!(logs.since(attempt(1), since).await.unwrap(), first as u64 * 10, "{since}");
            assert_eq!(logs.since(attempt(2), since).await.unwrap(), first as u64, "{since}");
        }
        assert_eq!(logs.since(attempt(3), 0).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn damage_is_not_passed_over_with_what_is_older() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::default();
    let logs = open_at(&dir, Options::default(), &clock);
    for n in 0..9 {
        append_at(&logs, &clock, 1_000 * n, attempt(1), "0123456789").await;
    }
    let file = OpenOptions::new().write(true).open(&segments(&dir)[0]).unwrap();
    for record in [3, 4] {
        let record = record::FILE_MARK.len() + record * (HEADER + 10);
        file.write_all_at(b"!", (record + HEADER) as u64).unwrap();
    }
    for (since, begins) in [(2_000, 20), (3_000, 30), (4_000, 30), (5_000, 30), (6_000, 60), (9_000, 90)] {
        assert_eq!(logs.since(attempt(1), since).await.unwrap(), begins, "{since}");
    }
    let error = logs.read_piece(attempt(1), 30, 100).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { from: 30, to: 40 }), "{error}");
}

#[tokio::test]
async fn what_version_1_wrote_is_read_and_gone_on_with_and_is_older_than_any_time() {
    let dir = tempfile::tempdir().unwrap();
    for number in [1, 2] {
        let mut segment = b"MUSTLOG1".to_vec();
        for n in 0..3_u64 {
            let offset = (number - 1) * 12 + n * 4;
            record::encode(&mut segment, attempt(1), offset, 8, 0, &[Bytes::from("old ")]);
            record::make_old(&mut segment, 4);
        }
        fs::write(dir.path().join(format!("segment-0000000{number}.log")), segment).unwrap();
    }
    let clock = Arc::default();
    let logs = open_at(&dir, Options::default(), &clock);
    assert!(logs.damage().is_empty());
    assert_eq!(read_all(&logs, attempt(1), 0, 100).await, "old ".repeat(6).as_bytes());
    append_at(&logs, &clock, 1, attempt(1), "new").await;
    drop(logs);
    let [sealed, active] = &segments(&dir)[..] else { panic!("one more segment") };
    assert!(fs::read(sealed).unwrap().starts_with(b"MUSTLOG1"), "left as it was");
    assert!(fs::read(active).unwrap().starts_with(record::FILE_MARK), "an older version leaves it alone");
    let logs = open_at(&dir, Options::default(), &clock);
    assert_eq!(logs.since(attempt(1), 0).await.unwrap(), 24);
    let old = logs.read_piece(attempt(1), 0, 100).await.unwrap();
    assert_eq!((old.time, old.bytes.len()), (None, 24));
    let new = Piece { bytes: Bytes::from("new"), time: Some(1) };
    assert_eq!(logs.read_piece(attempt(1), 24, 100).await.unwrap(), new);
}

#[derive(Clone, Debug)]
enum Step {
    /// For this task, so many bytes back from what is expected, so many bytes long.
    Send(u32, u64, usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (1..4_u32, 0..600_u64, 0..900_usize).prop_map(|(task, back, length)| Step::Send(task, back, length)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_sent_again_the_bytes_are_exact(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut logs = open(&dir, SMALL);
            let mut sent: HashMap<u32, u64> = HashMap::new();
            let source = |task: u32| noise(60_000, u64::from(task));
            for step in steps {
                match step {
                    Step::Send(task, back, length) => {
                        let known = sent.entry(task).or_default();
                        let offset = known.saturating_sub(back);
                        let end = offset + length as u64;
                        let data = &source(task)[offset as usize..end as usize];
                        append(&logs, attempt(task), offset, data).await.unwrap();
                        *known = end.max(*known);
                    }
                    Step::Restart => {
                        drop(logs);
                        logs = open(&dir, SMALL);
                        for (task, end) in &sent {
                            assert_eq!(logs.stored(attempt(*task)), *end);
                        }
                    }
                }
            }
            for (task, end) in sent {
                stored(&logs, attempt(task), end).await;
                assert!(read_all(&logs, attempt(task), 0, 1_234).await == source(task)[..end as usize]);
            }
        });
    }
}
