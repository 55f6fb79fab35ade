//! The network half of a worker, killed over and over: its runner keeps the tasks, and the next half reports them.

use std::time::Instant;

use muster_tests::{Cluster, ClusterOptions, WatchLog, WorkerOptions};

use crate::{
    batch::{self, AT_ONCE, BLOWS, Traffic},
    dice::Dice,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_network_half_killed_twenty_times_loses_nothing_and_starts_nothing_twice() {
    let mut dice = Dice::thrown();
    let cluster = Cluster::start_with(ClusterOptions::with_limits(AT_ONCE as u32, 100)).await;
    let mut worker = Some(cluster.worker(WorkerOptions::new("solo", AT_ONCE as u32)).await);
    let batch = cluster.submit(&batch::scripts(), AT_ONCE).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    let mut traffic = Traffic::new(&batch.batch_id);
    let begin = Instant::now();
    for blow in 0..BLOWS {
        traffic.moves(&cluster, blow).await;
        dice.moment(250).await;
        let gate = format!("gate-{blow}");
        // The stream ends just before the kill, while nobody is there to tell, or after the next half is there.
        let when = dice.below(3);
        traffic.struck(&cluster, blow);
        if when == 0 {
            cluster.open_gate(&gate);
            dice.moment(30).await;
        }
        let options = worker.take().unwrap().kill().await;
        if when == 1 {
            cluster.open_gate(&gate);
            dice.moment(150).await;
        }
        worker = Some(cluster.worker(options).await);
        if when == 2 {
            cluster.open_gate(&gate);
        }
    }
    batch::assert_whole(&cluster, &mut watch).await;
    batch::assert_nothing_left(&cluster);
    println!(
        "network half killed {BLOWS} times in {:.1} s; running at each: {:?}",
        begin.elapsed().as_secs_f64(),
        traffic.running
    );
}
