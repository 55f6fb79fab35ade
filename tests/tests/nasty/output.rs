//! Output that is too much, too little, too late, or no text.

use muster_proto::v1::TaskStatus;
use muster_tests::{eventually, nasty};

use crate::{
    bed::{Bed, PATIENCE},
    both_ways,
};

/// How much of an attempt's output is kept.
const KEPT: i64 = 64 * 1024 * 1024;
/// Set to anything, a flood has 10 GiB instead of 1.
const HUGE: &str = "MUSTER_TEST_HUGE_OUTPUT";
/// The most memory that the runner may have had at its worst.
const RUNNER_PEAK_KIB: u64 = 32 * 1024;
/// The same for the network half, which sends all that is kept.
const HALF_PEAK_KIB: u64 = 48 * 1024;

both_ways! {
    of_a_flood_the_beginning_is_kept_and_the_rest_counted
    a_million_bytes_one_by_one_all_arrive
    who_closes_its_output_goes_on
    a_grandchild_that_prints_without_end_delays_nothing_and_is_ended
    what_is_no_text_is_kept_as_it_is
}

async fn of_a_flood_the_beginning_is_kept_and_the_rest_counted(bed: Bed) {
    let bytes: i64 = if std::env::var_os(HUGE).is_some() { 10 << 30 } else { 1 << 30 };
    let end = bed.run(&format!("flood {bytes}")).await;
    assert_eq!((end.task.status(), end.task.exit_code), (TaskStatus::Completed, Some(0)));
    assert_eq!((end.task.log_bytes, end.task.discarded_log_bytes), (KEPT, bytes - KEPT));
    assert!(nasty::is_flood(&end.log), "what is kept is not what was printed first");
    let (runner, half) = (nasty::peak_kib(bed.runner()), nasty::peak_kib(bed.worker.pid()));
    eprintln!("at most {runner} KiB in the runner, {half} KiB in the network half");
    assert!(runner < RUNNER_PEAK_KIB && half < HALF_PEAK_KIB, "runner {runner} KiB, half {half} KiB");
}

async fn a_million_bytes_one_by_one_all_arrive(bed: Bed) {
    let end = bed.run("dribble 1000000").await;
    assert_eq!((end.task.status(), end.task.discarded_log_bytes), (TaskStatus::Completed, 0));
    let expected: Vec<u8> = nasty::DRIBBLE.iter().copied().cycle().take(1_000_000).collect();
    assert!(end.log == expected, "{} bytes arrived", end.log.len());
}

async fn who_closes_its_output_goes_on(bed: Bed) {
    let batch = bed.start("mute go", "nothing more").await;
    let runner = bed.runner();
    // Once the runner has seen the end of the pipe it closes its own end, and nothing else happens.
    let pid = nasty::recorded(&bed.cluster.probe_dir())[0];
    eventually("the output is closed", PATIENCE, || async {
        (!std::path::Path::new(&format!("/proc/{pid}/fd/1")).exists()).then_some(())
    })
    .await;
    bed.cluster.open_gate("go");
    let end = bed.end(&batch).await;
    assert_eq!((end.task.status(), end.task.exit_code), (TaskStatus::Failed, Some(6)));
    assert_eq!(end.log, b"nothing more\n");
    assert_eq!(bed.runner(), runner);
}

async fn a_grandchild_that_prints_without_end_delays_nothing_and_is_ended(bed: Bed) {
    let end = bed.run("chatter 4").await;
    assert_eq!((end.task.status(), end.task.exit_code), (TaskStatus::Failed, Some(4)));
    assert!(nasty_chatter(&end.log), "{} bytes are not all chatter", end.log.len());
}

/// Whole and in order, cut only where it was ended.
fn nasty_chatter(log: &[u8]) -> bool {
    log.chunks(8).all(|chunk| b"chatter\n".starts_with(chunk))
}

async fn what_is_no_text_is_kept_as_it_is(bed: Bed) {
    let end = bed.run("bad-text").await;
    assert_eq!(end.task.status(), TaskStatus::Completed);
    assert_eq!(end.log, nasty::BAD_TEXT);
}
