//! The batch that is run under blows: sixty tasks of every kind, and what each must have come to. Every third task
//! writes until a gate opens that the test opens around one of its blows, so that output moves at each of them.

use std::path::Path;

use muster_proto::v1::{
    FailureReason, ListTasksRequest, SchedulerStatus, TailLogsRequest, Task, TaskStatus,
    batch_service_client::BatchServiceClient, tail_logs_response::Content,
};
use muster_tests::{
    Cluster, WatchLog, eventually, is_away,
    probe::{Run, flood, stream, streamed},
    read_log, wait_for,
};
use tonic::transport::Channel;

use crate::LATER;

/// How often is struck: a batch has three tasks for each blow.
pub(crate) const BLOWS: i32 = 20;
/// Tasks of a batch.
pub(crate) const TASKS: i32 = 3 * BLOWS;
/// Tasks at once: more than one, so that tasks end and start around every blow.
pub(crate) const AT_ONCE: i32 = 4;
/// What a big task prints: more than fits into a result, a pipe, a piece and a window.
const BIG: usize = 3 << 20;

/// What a task does and how it must end.
enum Kind {
    /// Writes until the blow's gate is open.
    Stream(i32),
    Short,
    Silent,
    Failing,
    Big,
    Signalled,
}

fn kind(task: i32) -> Kind {
    if task % 3 == 1 {
        return Kind::Stream(task / 3);
    }
    match task / 3 * 2 + task % 3 {
        number if number % 5 == 0 => Kind::Short,
        number if number % 5 == 1 => Kind::Silent,
        number if number % 5 == 2 => Kind::Failing,
        number if number % 5 == 3 => Kind::Big,
        _ => Kind::Signalled,
    }
}

/// The scripts of the whole batch.
pub(crate) fn scripts() -> Vec<String> {
    (1..=TASKS).map(script).collect()
}

fn script(task: i32) -> String {
    match kind(task) {
        Kind::Stream(blow) => format!("touch up-{blow};stream gate-{blow};say end of {task}"),
        Kind::Short => format!("say short {task}"),
        Kind::Silent => "sleep 150".into(),
        Kind::Failing => format!("say out {task};err failing {task};exit 7"),
        Kind::Big => format!("flood {BIG};sleep 20;flood {BIG};say big {task}"),
        Kind::Signalled => format!("flood 5000;say struck {task};signal 15"),
    }
}

fn expected_log(cluster: &Cluster, run: &Run) -> Vec<u8> {
    let task = run.task;
    match kind(task) {
        Kind::Stream(_) => {
            let pieces = streamed(&cluster.probe_dir(), run).expect("the stream ended");
            [stream(pieces), format!("end of {task}\n").into_bytes()].concat()
        }
        Kind::Short => format!("short {task}\n").into_bytes(),
        Kind::Silent => Vec::new(),
        Kind::Failing => format!("out {task}\nfailing {task}\n").into_bytes(),
        Kind::Big => [flood(BIG), flood(BIG), format!("big {task}\n").into_bytes()].concat(),
        Kind::Signalled => [flood(5000), format!("struck {task}\n").into_bytes()].concat(),
    }
}

fn assert_end(task: &Task) {
    let end = (task.status(), task.failure_reason(), task.exit_code, task.signal);
    let none = FailureReason::Unspecified;
    let expected = match kind(task.index) {
        Kind::Failing => (TaskStatus::Failed, FailureReason::ExitCode, Some(7), 0),
        Kind::Signalled => (TaskStatus::Failed, FailureReason::Signal, None, 15),
        _ => (TaskStatus::Completed, none, Some(0), 0),
    };
    assert_eq!(end, expected, "{task:?}");
    assert!(task.late_results.is_empty(), "{task:?}");
}

/// What the test has seen of its batch before each blow.
pub(crate) struct Traffic {
    batch_id: String,
    /// Running tasks at each blow, by the programs' own records.
    pub(crate) running: Vec<usize>,
}

impl Traffic {
    pub(crate) fn new(batch_id: &str) -> Self {
        Self { batch_id: batch_id.into(), running: Vec::new() }
    }

    /// Waits until the coordinator stores new output of this blow's stream: more than it has when this is called.
    pub(crate) async fn moves(&self, cluster: &Cluster, blow: i32) {
        wait_for(&cluster.probe_dir().join(format!("up-{blow}"))).await;
        let task = (blow * 3 + 1, self.run(cluster, blow).attempt);
        let look = async |from| stored_from(cluster.batches(), &self.batch_id, task, from).await;
        let had = eventually("the coordinator answers", LATER, || look(0)).await;
        eventually("output moves", LATER, || async { look(had).await.filter(|now| *now > had) }).await;
    }

    /// The blow falls now: its stream must be in the middle of its output.
    pub(crate) fn struck(&mut self, cluster: &Cluster, blow: i32) {
        let own = self.run(cluster, blow);
        assert!(own.end_ns.is_none(), "a blow without traffic: {own:?}");
        let running = |run: &&Run| run.batch == self.batch_id && run.end_ns.is_none();
        self.running.push(cluster.runs().iter().filter(running).count());
    }

    /// The one run of a blow's stream. An attempt that was handed out and never started has a number as well.
    fn run(&self, cluster: &Cluster, blow: i32) -> Run {
        let own = |run: &Run| run.batch == self.batch_id && run.task == blow * 3 + 1;
        cluster.runs().into_iter().find(own).expect("it has started")
    }
}

/// To where a log is stored, read from `offset`; none while the coordinator does not answer or has nothing.
async fn stored_from(
    mut client: BatchServiceClient<Channel>,
    batch_id: &str,
    (task, attempt): (i32, i32),
    offset: i64,
) -> Option<i64> {
    let request = TailLogsRequest {
        batch_id: batch_id.into(),
        task_index: task,
        attempt,
        offset,
        raw: true,
        ..Default::default()
    };
    let mut stream = client.tail_logs(request).await.ok()?.into_inner();
    let mut end = offset;
    while let Some(piece) = stream.message().await.ok()? {
        if let Some(Content::Data(data)) = piece.content {
            assert_eq!(piece.offset, end, "a gap in the log of task {task}");
            end += data.len() as i64;
        }
    }
    Some(end)
}

/// Every task started once, ended as its program did, and left its log whole; and a watch that went through it all
/// has what the store has.
pub(crate) async fn assert_whole(cluster: &Cluster, watch: &mut WatchLog) {
    let end = watch.follow_to_end(cluster, LATER).await;
    assert_eq!(end.scheduler_status(), SchedulerStatus::Completed);
    assert_eq!(watch.tasks.len(), TASKS as usize);
    let listed = list_tasks(cluster.batches(), &watch.batch_id).await;
    let runs: Vec<Run> = cluster.runs().into_iter().filter(|run| run.batch == watch.batch_id).collect();
    assert_eq!(runs.len(), TASKS as usize, "every task was started, and once");
    for ((task, watched), run) in listed.iter().zip(watch.tasks.values()).zip(&runs) {
        assert_end(task);
        assert_eq!((task.index, task.attempt), (run.task, run.attempt), "what has run is what counts");
        assert_eq!(task.revision, watched.revision, "the watch missed a change: {task:?} {watched:?}");
        assert_eq!((task.status, task.exit_code), (watched.status, watched.exit_code));
        let expected = expected_log(cluster, run);
        let log = read_log(cluster, &watch.batch_id, task.index, 0, LATER).await;
        assert!(log == expected, "the log of task {}: {}", task.index, first_difference(&log, &expected));
        assert_eq!(task.log_bytes as usize, log.len(), "{task:?}");
    }
}

fn first_difference(log: &[u8], expected: &[u8]) -> String {
    let at = log.iter().zip(expected).take_while(|(a, b)| a == b).count();
    format!("{} bytes of {}, the same up to {at}", log.len(), expected.len())
}

/// All tasks of a batch, page by page.
pub(crate) async fn list_tasks(mut client: BatchServiceClient<Channel>, batch_id: &str) -> Vec<Task> {
    let mut request = ListTasksRequest { batch_id: batch_id.into(), ..Default::default() };
    let mut tasks = Vec::new();
    loop {
        let page = match client.list_tasks(request.clone()).await {
            Ok(page) => page.into_inner(),
            // A connection that stood before the last kill is found broken once.
            Err(status) if is_away(&status) => continue,
            Err(status) => panic!("{status:?}"),
        };
        tasks.extend(page.tasks);
        if page.next_page_token.is_empty() {
            return tasks;
        }
        request.page_token = page.next_page_token;
    }
}

/// Fails if a program of the test is left; called when every task has ended.
pub(crate) fn assert_nothing_left(cluster: &Cluster) {
    for run in cluster.runs() {
        assert!(!Path::new(&format!("/proc/{}/fd", run.pid)).exists(), "a program is left: {run:?}");
    }
}
