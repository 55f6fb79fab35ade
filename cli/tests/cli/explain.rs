//! `muster explain` against a coordinator that says what the test wants.

use muster_proto::v1::{ExplainBatchResponse, SchedulerStatus, TaskCounts, WaitCause, WaitReason};
use tonic::Status;

use crate::support::Fake;

fn answer() -> ExplainBatchResponse {
    ExplainBatchResponse {
        batch_id: "b1".to_owned(),
        scheduler_status: SchedulerStatus::Queued.into(),
        counts: Some(TaskCounts { queued: 2, ..TaskCounts::default() }),
        effective_concurrency: 2,
        causes: vec![WaitCause {
            reason: WaitReason::NoWorker.into(),
            message: "no worker is connected\u{1b}[2J".to_owned(),
            way_out: "start one with: muster-worker --coordinator http://HOST:PORT --dispatch 'CMD'; or end \
                      it: muster cancel b1"
                .to_owned(),
            task_count: 2,
            ..WaitCause::default()
        }],
        next_task_index: 1,
        ..ExplainBatchResponse::default()
    }
}

#[tokio::test]
async fn the_cause_comes_with_a_way_out_that_can_be_typed_as_it_is() {
    let fake = Fake::start();
    fake.state.explanations.lock().unwrap().push_back(Ok(answer()));
    let printed = fake.muster(&["explain", "b1", "2"]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    assert_eq!(
        printed.out,
        format!(
            "batch b1 queued: 2 queued, at most 2 at once\n\
             2 tasks wait: no worker is connected␛[2J\n  \
             next: start one with: muster-worker --coordinator {} --dispatch 'CMD'; \
             or end it: muster --coordinator {} cancel b1\n\
             next is task 1, first in the queue of the fleet\n",
            fake.url(),
            fake.url()
        )
    );
    let seen = fake.state.seen_explains.lock().unwrap();
    assert_eq!((seen[0].batch_id.as_str(), seen[0].task_index), ("b1", 2));
}

#[tokio::test]
async fn programs_get_the_apis_own_answer() {
    let fake = Fake::start();
    fake.state.explanations.lock().unwrap().extend([Ok(answer()), Ok(answer())]);
    let printed = fake.muster(&["explain", "b1", "--output", "json"]).await;
    let document: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(document["causes"][0]["reason"], "WAIT_REASON_NO_WORKER");
    assert_eq!(document["scheduler_status"], "SCHEDULER_STATUS_QUEUED");
    let printed = fake.muster(&["explain", "b1", "--output", "jsonl"]).await;
    let lines: Vec<serde_json::Value> =
        printed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["task_count"]), (1, &serde_json::json!(2)));
    assert_eq!(fake.muster(&["explain", "b1", "--output", "seed-json"]).await.code, 2);
}

#[tokio::test]
async fn a_refusal_has_its_exit_code() {
    let fake = Fake::start();
    fake.state.explanations.lock().unwrap().push_back(Err(Status::not_found("there is no batch")));
    let printed = fake.muster(&["explain", "b2"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (2, ""));
    assert!(printed.err.contains("there is no batch"), "{printed:?}");
}
