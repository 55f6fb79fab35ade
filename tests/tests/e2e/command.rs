//! The `muster` command against real processes: its output, its exit codes, and `run` with nothing else there.

use std::{fs, process::Output};

use muster_tests::{Cluster, WorkerOptions, eventually, examples_dir, processes_of, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::SOON;

pub(crate) async fn muster(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = cluster.command("muster", "muster");
    command.env("MUSTER_COORDINATOR", format!("http://{}", cluster.address()));
    let output = command.args(args).stderr(std::process::Stdio::piped()).output();
    tokio::time::timeout(SOON, output).await.expect("the command ends").expect("the command starts")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn submit_watch_status_and_logs_tell_how_it_went() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 2)).await;
    let file = cluster.dir().join("batch.json");
    fs::write(&file, r#"["say first", "say second;exit 3"]"#).unwrap();
    let submitted = muster(&cluster, &["submit", file.to_str().unwrap(), "--watch"]).await;
    assert_eq!(submitted.status.code(), Some(1), "one task fails: {submitted:?}");

    let listed = muster(&cluster, &["list", "--output", "json"]).await;
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    let id = cluster.runs()[0].batch.clone();
    assert!(text(&listed.stdout).contains(&id));
    let status = muster(&cluster, &["status", &id, "--output", "seed-json"]).await;
    let document: serde_json::Value = serde_json::from_slice(&status.stdout).expect("one JSON document");
    assert_eq!(document["mode"], "batch_run");
    assert_eq!(document["scheduler_status"], "completed");
    assert_eq!(document["tasks"][1]["exit_code"], 3);
    assert_eq!(document["tasks"][1]["failure_reason"], "exit_code");
    let logs = muster(&cluster, &["logs", &id, "2"]).await;
    assert!(text(&logs.stdout).contains("second"), "{logs:?}");
    let all = muster(&cluster, &["logs", &id, "--tail", "1"]).await;
    assert!(text(&all.stdout).contains("[2 "), "{all:?}");
    let watched = muster(&cluster, &["watch", &id]).await;
    assert_eq!(watched.status.code(), Some(1), "{watched:?}");
    let waited = muster(&cluster, &["wait", &id]).await;
    assert_eq!((waited.status.code(), text(&waited.stdout).as_str()), (Some(1), ""), "{waited:?}");
    let folder = cluster.dir().join("export");
    let exported = muster(&cluster, &["export", &id, folder.to_str().unwrap()]).await;
    assert_eq!(exported.status.code(), Some(0), "{exported:?}");
    assert!(fs::read_to_string(folder.join("task-02.log")).unwrap().contains("second"));
    let record = fs::read_to_string(folder.join("batch-supervisor.log")).unwrap();
    assert!(
        record.contains("status=failed exit_code=3") && record.ends_with("worker finished\n"),
        "{record}"
    );
    let workers = muster(&cluster, &["workers"]).await;
    assert!(text(&workers.stdout).contains("solo"), "{workers:?}");
    let limits = muster(&cluster, &["limits"]).await;
    assert_eq!(limits.status.code(), Some(0), "{limits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_an_absent_coordinator_have_their_exit_codes() {
    let mut cluster = Cluster::start().await;
    let file = cluster.dir().join("bad.json");
    fs::write(&file, r#"[{"promt": "a"}]"#).unwrap();
    let refused = muster(&cluster, &["submit", file.to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(text(&refused.stderr).contains("prompt"), "the way out: {refused:?}");
    let unknown = muster(&cluster, &["status", "0000000000000"]).await;
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    fs::write(&file, r#"["say a"]"#).unwrap();
    let waiting = muster(&cluster, &["submit", file.to_str().unwrap()]).await;
    assert_eq!(waiting.status.code(), Some(0), "{waiting:?}");
    let said = text(&waiting.stdout) + &text(&waiting.stderr);
    assert!(said.contains("muster-worker"), "without a worker it names the command that starts one: {said}");
    cluster.kill_coordinator().await;
    let gone = muster(&cluster, &["list"]).await;
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_needs_nothing_else_and_leaves_no_process() {
    let cluster = Cluster::start().await;
    let batch = examples_dir().join("batch.json");
    let dispatch = examples_dir().join("dispatch");
    let data = cluster.dir().join("run-data");
    let args = [
        "run",
        batch.to_str().unwrap(),
        "--dispatch",
        dispatch.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let ran = muster(&cluster, &args).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let mut posters = Vec::new();
    find(&data, "svg", &mut posters);
    assert_eq!(posters.len(), 5, "{posters:?}");
    let drawn = posters.iter().map(|poster| fs::read_to_string(poster).unwrap()).collect::<String>();
    assert!(drawn.contains("清晨的竹林") && drawn.contains("tea &amp; cake on a &lt;small&gt; table"));
    eventually("no process is left", SOON, || async { processes_of(&data).is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_its_data_in_a_folder_named_after_its_batch() {
    let cluster = Cluster::start().await;
    let file = cluster.dir().join("batch.json");
    fs::write(&file, r#"["say hello"]"#).unwrap();
    let mut command = cluster.command("muster", "muster-run");
    command.args(["run", file.to_str().unwrap(), "--output", "json", "--dispatch"]);
    let ran = command
        .arg(muster_tests::bin("probe"))
        .current_dir(cluster.dir())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .await
        .unwrap();
    let batch: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    let id = batch["batch_id"].as_str().or(batch["batch"]["batch_id"].as_str()).unwrap();
    assert!(cluster.dir().join("muster-runs").join(id).join("muster.db").is_file(), "{id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_cancels_and_exits_130() {
    let cluster = Cluster::start().await;
    let file = cluster.dir().join("batch.json");
    fs::write(&file, r#"["say up;touch up;wait never", "say two"]"#).unwrap();
    let data = cluster.dir().join("run-data");
    let mut command = cluster.command("muster", "muster-run");
    let probe = muster_tests::bin("probe");
    command.args(["run", file.to_str().unwrap(), "--slots", "1", "--concurrency", "1", "--dispatch"]);
    let mut child =
        command.arg(probe).arg("--data-dir").arg(&data).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_for(&cluster.probe_dir().join("up")).await;
    kill(Pid::from_raw(child.id().unwrap() as i32), Signal::SIGINT).unwrap();
    let status = tokio::time::timeout(SOON, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(130), "{status:?}");
    assert_eq!(cluster.runs().len(), 1, "the second task never starts");
    eventually("no process is left", SOON, || async { processes_of(&data).is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_must_not_start_say_why() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("taken", 1)).await;
    let end = async |program: &str, args: &[&str]| {
        let mut command = cluster.command(program, "refused");
        let output = command.args(args).stderr(std::process::Stdio::piped()).output();
        let output = tokio::time::timeout(SOON, output).await.expect("it ends at once").unwrap();
        assert!(!output.status.success(), "{program} {args:?}: {output:?}");
        text(&output.stderr)
    };
    let (data, other) = (cluster.data_dir(), cluster.dir().join("other"));
    let (data, other) = (data.to_str().unwrap(), other.to_str().unwrap());
    let second = end("muster-coordinator", &["--listen", "127.0.0.1:0", "--data-dir", data]).await;
    assert!(second.contains(data), "a second coordinator on the same data: {second}");
    let open = end("muster-coordinator", &["--listen", "0.0.0.0:0", "--data-dir", other]).await;
    assert!(open.contains("--insecure"), "another address than loopback: {open}");
    let url = format!("http://{}", cluster.address());
    let args = ["--coordinator", &url, "--dispatch", "true", "--name", "taken", "--work-dir", other];
    let namesake = end("muster-worker", &args).await;
    assert!(namesake.contains("taken") && namesake.contains("--name"), "a used name: {namesake}");
    let zero = end("muster-coordinator", &["--data-dir", other, "--system-max-tasks", "0"]).await;
    assert!(zero.contains("system-max-tasks"), "{zero}");
}

fn find(folder: &std::path::Path, extension: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            find(&path, extension, found);
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_refused_or_only_checked_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let (file, runs) = (cluster.dir().join("batch.json"), cluster.dir().join("muster-runs"));
    let dispatch = examples_dir().join("dispatch");
    let run = ["run", file.to_str().unwrap(), "--dispatch", dispatch.to_str().unwrap()];
    fs::write(&file, r#"["1", "2", "3", "4", "5", "6"]"#).unwrap();
    let refused = muster(&cluster, &run).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = text(&refused.stderr);
    assert!(said.contains("--task-count-approved") && !said.contains("data in"), "{said}");
    assert!(!runs.exists(), "nothing was stored");
    fs::write(&file, r#"["1"]"#).unwrap();
    let checked = muster(&cluster, &[&run[..], &["--validate-only"]].concat()).await;
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    assert!(!runs.exists(), "nothing was stored");
    let ran = muster(&cluster, &run).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(text(&ran.stderr).contains("data in muster-runs/") && runs.exists(), "{ran:?}");
}
