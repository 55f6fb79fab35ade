//! `muster run` that is killed outright: its tasks are its own, and end with it.

use std::{fs, process::Stdio};

use muster_tests::{Cluster, eventually, processes_of, wait_for};

use crate::SOON;

/// walks: R5
#[tokio::test(flavor = "multi_thread")]
async fn the_tasks_of_a_run_that_is_killed_are_ended() {
    let cluster = Cluster::start().await;
    let file = cluster.dir().join("batch.json");
    fs::write(&file, r#"["say up;touch up;wait never", "say two;touch two;wait never", "say three"]"#)
        .unwrap();
    let data = cluster.dir().join("run-data");
    let mut command = cluster.command("muster", "muster-run");
    command.args(["run", file.to_str().unwrap(), "--slots", "2", "--concurrency", "2", "--dispatch"]);
    command.arg(muster_tests::bin("probe")).arg("--data-dir").arg(&data);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    for task in ["up", "two"] {
        wait_for(&cluster.probe_dir().join(task)).await;
    }
    child.kill().await.unwrap();
    let runs = cluster.runs();
    assert_eq!(runs.len(), 2);
    eventually("no task and no runner is left", SOON, || async {
        let is_there = |pid: i32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        (!runs.iter().any(|run| is_there(run.pid)) && processes_of(&data).is_empty()).then_some(())
    })
    .await;
    assert_eq!(cluster.runs().len(), 2, "nothing was started after its end");
}
