//! The coordinator over real sockets, with a worker that the test plays: what clients and workers are promised.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod output;
mod site;

use std::time::Duration;

use muster_coordinator::{Config, Coordinator};
use muster_proto::{
    BatchId,
    v1::{self, attach_request::Message as Say, attach_response::Message as Hear},
};
use tonic::Code;
use tonic_types::StatusExt as _;
use v1::fleet_service_client::FleetServiceClient;

use self::site::*;

#[tokio::test]
async fn the_id_that_was_set_aside_is_the_first_stored_batchs() {
    let id = BatchId::new(1_700_000_000_000, 7);
    let site = Site::start_in(tempfile::tempdir().unwrap(), Some(id)).await;
    let refused = site.submit(v1::SubmitBatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(site.batch(1).await.batch_id, id.to_string(), "a refused submission does not use it up");
    assert_ne!(site.batch(1).await.batch_id, id.to_string());
    let Site { running, channel, dir } = site;
    drop(channel);
    running.shutdown().await.unwrap();
    // One that is taken is no obstacle, and harms nothing.
    let site = Site::start_in(dir, Some(id)).await;
    assert_ne!(site.batch(2).await.batch_id, id.to_string());
    let request = v1::GetBatchRequest { batch_id: id.to_string() };
    let first = soon("get", site.batches().get_batch(request)).await.unwrap().into_inner().batch.unwrap();
    assert_eq!(first.tasks.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_runs_is_watched_and_its_output_read() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    assert_eq!((batch.task_count, batch.tasks.len(), batch.available_workers), (1, 1, 0));
    let mut watch = site.watch(&batch.batch_id, None).await.unwrap();
    let first = soon("snapshot", watch.message()).await.unwrap().unwrap();
    assert_eq!((first.revision, first.tasks.len()), (batch.revision, 1));

    let follow = v1::TailLogsRequest {
        batch_id: batch.batch_id.clone(),
        task_index: 1,
        follow: true,
        ..Default::default()
    };
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let attempt = worker.start().await;
    let (tail, ()) = tokio::join!(site.tail(follow), async {
        worker.end(attempt, 3, "héllo 竹".as_bytes()).await;
        worker.acknowledged(attempt).await;
    });
    let tail = tail.unwrap();
    assert_eq!(text(&tail), "héllo 竹");
    let last = tail.last().unwrap();
    assert!(last.end_of_log && last.attempt == 1 && last.offset == "héllo 竹".len() as i64);

    let mut seen = first.revision;
    let mut end = None;
    while let Some(message) = soon("a change", watch.message()).await.unwrap() {
        assert!(message.revision > seen);
        seen = message.revision;
        end = Some(message);
    }
    let end = end.unwrap();
    assert_eq!(end.batch.unwrap().scheduler_status(), v1::SchedulerStatus::Completed);
    let task = end.tasks.last().unwrap();
    assert_eq!((task.status(), task.exit_code), (v1::TaskStatus::Failed, Some(3)));
    assert_eq!((task.worker_id.as_str(), task.output_path.as_str()), ("w1", "/out"));

    // Whoever has seen everything is told once more that it has ended.
    let mut again = site.watch(&batch.batch_id, Some(seen)).await.unwrap();
    let message = soon("the end", again.message()).await.unwrap().unwrap();
    assert!(message.batch.is_some() && message.tasks.is_empty() && message.revision == seen);
    assert!(soon("no more", again.message()).await.unwrap().is_none());
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_costs_a_worker_its_session_and_nobody_else_anything() {
    let site = Site::start().await;
    let refused = Worker::attach(&site, v1::Hello { slots: 0, ..Worker::hello("w0") }).await;
    let refused = refused.map(|_| ()).unwrap_err();
    let details = refused.get_error_details();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "hello.slots");

    let mut good = Worker::attach(&site, Worker::hello("good")).await.unwrap();
    let taken = v1::Hello { instance_id: "f".repeat(32), ..Worker::hello("good") };
    let taken = Worker::attach(&site, taken).await.map(|_| ()).unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    for nonsense in [
        Say::Accepted(v1::Accepted { attempt: None }),
        Say::Hello(Worker::hello("bad")),
        Say::Ended(v1::Ended {
            attempt: Some(v1::Attempt { life: 1, batch: 1, task: 1, attempt: 1 }),
            ..Default::default()
        }),
        Say::Accepted(v1::Accepted { attempt: Some(v1::Attempt { life: 1, batch: 1, task: 1, attempt: 1 }) }),
    ] {
        let mut bad = Worker::attach(&site, Worker::hello("bad")).await.unwrap();
        bad.say(nonsense).await;
        let status = bad.hear().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    let mut fleet = FleetServiceClient::new(site.channel.clone());
    soon("bad is gone", async {
        loop {
            let workers = fleet.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
            let up = |worker: &&v1::Worker| worker.status() == v1::WorkerStatus::Connected;
            let names: Vec<_> = workers.iter().filter(up).map(|worker| worker.worker_id.as_str()).collect();
            if names == ["good"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    site.batch(1).await;
    let attempt = good.start().await;
    good.end(attempt, 0, b"").await;
    good.acknowledged(attempt).await;
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_reaches_the_worker_and_no_answer() {
    let site = Site::start().await;
    let request = v1::SubmitBatchRequest {
        batch_json: r#"["a"]"#.into(),
        api_key: "sk-canary".into(),
        ..Default::default()
    };
    let batch = site.submit(request.clone()).await.unwrap();
    assert!(!format!("{batch:?}").contains("sk-canary"));
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let offer = worker.offer().await;
    assert_eq!(offer.env.get("BIZYAIR_API_KEY").map(String::as_str), Some("sk-canary"));
    assert!(!format!("{:?}", offer.args_before).contains("sk-canary"));
    let bad =
        site.submit(v1::SubmitBatchRequest { api_key: "sk-\ncanary".into(), ..request }).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    assert!(!format!("{bad:?}").contains("canary"));
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_come_in_pages_and_every_list_has_them_once() {
    const TASKS: usize = 2_500;
    let site = Site::start().await;
    let batch = site.batch(TASKS).await;
    assert!(batch.tasks_omitted && batch.tasks.is_empty());

    let mut listed = Vec::new();
    let mut request =
        v1::ListTasksRequest { batch_id: batch.batch_id.clone(), page_size: 999, ..Default::default() };
    loop {
        let page = soon("a page", site.batches().list_tasks(request.clone())).await.unwrap().into_inner();
        listed.extend(page.tasks.iter().map(|task| task.index));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let expected: Vec<i32> = (1..=TASKS as i32).collect();
    assert_eq!(listed, expected);

    let mut watch = site.watch(&batch.batch_id, None).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < TASKS {
        let message = soon("the snapshot", watch.message()).await.unwrap().unwrap();
        let complete = seen.len() + message.tasks.len() == TASKS;
        assert_eq!(message.revision == batch.revision, complete, "a cursor never passes over tasks not sent");
        seen.extend(message.tasks.iter().map(|task| task.index));
    }
    assert_eq!(seen, expected);

    for _ in 0..3 {
        site.batch(1).await;
    }
    let mut ids = Vec::new();
    let mut request = v1::ListBatchesRequest { page_size: 3, ..Default::default() };
    loop {
        let page = soon("a page", site.batches().list_batches(request.clone())).await.unwrap().into_inner();
        ids.extend(page.batches.into_iter().map(|batch| batch.batch_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let mut newest_first = ids.clone();
    newest_first.sort_unstable_by(|left, right| right.cmp(left));
    assert_eq!((ids.len(), &ids), (4, &newest_first));
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_from_elsewhere_is_out_of_range() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    let future = site.watch(&batch.batch_id, Some(batch.revision + 1)).await.map(|_| ()).unwrap_err();
    assert_eq!(future.code(), Code::OutOfRange);
    let request = v1::WatchBatchRequest {
        batch_id: batch.batch_id,
        after_revision: Some(batch.revision),
        life_id: "0000000000000".into(),
    };
    let other = soon("watch", site.batches().watch_batch(request)).await.map(|_| ()).unwrap_err();
    assert_eq!(other.code(), Code::OutOfRange);
    let details = other.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "LIFE_CHANGED");
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_names_no_batch_is_not_found_and_a_missing_one_is_invalid() {
    let site = Site::start().await;
    for (id, code) in
        [("0000000000000", Code::NotFound), ("no-such-batch", Code::NotFound), ("", Code::InvalidArgument)]
    {
        let mut batches = site.batches();
        let batch_id = || id.to_owned();
        let got = batches.get_batch(v1::GetBatchRequest { batch_id: batch_id() }).await.unwrap_err();
        let request = v1::ListTasksRequest { batch_id: batch_id(), ..Default::default() };
        let listed = batches.list_tasks(request).await.unwrap_err();
        let request = v1::CancelBatchRequest { batch_id: batch_id(), ..Default::default() };
        let cancelled = batches.cancel_batch(request).await.unwrap_err();
        let request = v1::RetryBatchRequest { batch_id: batch_id(), ..Default::default() };
        let retried = batches.retry_batch(request).await.unwrap_err();
        let request = v1::TailLogsRequest { batch_id: batch_id(), task_index: 1, ..Default::default() };
        let tailed = site.tail(request).await.unwrap_err();
        let watched = site.watch(id, None).await.unwrap_err();
        for status in [got, listed, cancelled, retried, tailed, watched] {
            assert_eq!(status.code(), code, "{id:?}: {status:?}");
        }
    }
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_by_the_limit_and_the_connection_lives_on() {
    let site = Site::start().await;
    let request = v1::SubmitBatchRequest { batch_json: "x".repeat(20 << 20), ..Default::default() };
    let status = site.submit(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("16777216"), "{status:?}");
    let request = v1::DrainWorkerRequest { worker_id: "x".repeat(70_000) };
    let mut fleet = FleetServiceClient::new(site.channel.clone());
    let status = soon("drain", fleet.drain_worker(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("65536"), "each service has its own limit: {status:?}");
    site.batch(1).await;
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gives_the_same_batch() {
    let site = Site::start().await;
    let request = v1::SubmitBatchRequest {
        batch_json: r#"["a", "a"]"#.into(),
        request_id: "once".into(),
        ..Default::default()
    };
    let first = site.submit(request.clone()).await.unwrap();
    assert_eq!(site.submit(request.clone()).await.unwrap().batch_id, first.batch_id);
    let other = v1::SubmitBatchRequest { batch_json: r#"["b"]"#.into(), ..request.clone() };
    assert_eq!(site.submit(other).await.unwrap_err().code(), Code::AlreadyExists);
    // The limits that it met count, not those that are in force when it is repeated.
    std::fs::write(site.dir.path().join("config.json"), r#"{"batch": {"max_tasks": 1}}"#).unwrap();
    assert_eq!(site.submit(request.clone()).await.unwrap().batch_id, first.batch_id);
    let anew = v1::SubmitBatchRequest { request_id: "anew".into(), ..request.clone() };
    assert_eq!(site.submit(anew).await.unwrap_err().code(), Code::FailedPrecondition);
    std::fs::remove_file(site.dir.path().join("config.json")).unwrap();
    let planned = v1::SubmitBatchRequest { validate_only: true, ..request };
    let planned = site.submit(planned).await.unwrap();
    assert_eq!((planned.batch_id.as_str(), planned.tasks.len()), ("", 2));
    let list = site.batches().list_batches(v1::ListBatchesRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.batches.len(), 1);
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_every_stream_and_says_why() {
    let site = Site::start().await;
    let batch = site.batch(2).await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        let mut watch = site.watch(&batch.batch_id, None).await.unwrap();
        soon("the snapshot", watch.message()).await.unwrap().unwrap();
        watches.push(watch);
    }
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    worker.start().await;
    let tail = v1::TailLogsRequest {
        batch_id: batch.batch_id.clone(),
        task_index: 1,
        follow: true,
        ..Default::default()
    };
    let mut tail = soon("tail", site.batches().tail_logs(tail)).await.unwrap().into_inner();
    let address = site.running.local_addr();
    let stop = tokio::spawn(site.running.shutdown());
    for mut watch in watches {
        let end = loop {
            match soon("the end of the watch", watch.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a watch ended as if its batch had"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    }
    let end = soon("the end of the tail", tail.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    let end = loop {
        match worker.hear().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a session ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    drop((site.channel, worker, tail));
    soon("the stop", stop).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn an_address_beyond_this_machine_needs_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path().join("data"));
    config.listen = "0.0.0.0:0".parse().unwrap();
    let refused = Coordinator::start(config.clone()).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("--insecure"), "{refused}");
    assert!(!dir.path().join("data").exists(), "nothing was made");
    config.insecure = true;
    Coordinator::start(config).await.unwrap().shutdown().await.unwrap();
}

/// Seconds.
fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_batch_is_carried_out_reaches_the_worker_and_comes_back() {
    let site = Site::start().await;
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let retry = v1::RetryPolicy {
        max_attempts: 2,
        on: vec!["timed_out".into()],
        backoff: seconds(0),
        ..Default::default()
    };
    let request = v1::SubmitBatchRequest {
        // The request wins over the payload, key by key.
        batch_json:
            r#"{"time_limit": "5m", "cancel_grace": 3, "tasks": [{"prompt": "a", "time_limit": "90s"}]}"#
                .into(),
        options: Some(v1::BatchOptions {
            time_limit: seconds(60),
            retry: Some(retry),
            on_disconnect: v1::OnDisconnect::Stop.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let batch = site.submit(request.clone()).await.unwrap();
    let options = batch.options.as_ref().unwrap();
    assert_eq!((options.time_limit, options.cancel_grace), (seconds(60), seconds(3)));
    assert_eq!(batch.tasks[0].time_limit, seconds(90));

    let offer = worker.offer().await;
    // A worker is lost after an hour; its grace and a minute are left of that.
    assert_eq!(
        (offer.time_limit_ms, offer.grace_ms, offer.stop_after_cut_off_ms),
        (90_000, 3_000, 3_600_000 - 3_000 - 60_000)
    );
    let timed_out = |attempt| v1::Ended {
        attempt: Some(attempt),
        outcome: Some(v1::ended::Outcome::ExitCode(0)),
        stop_sent: true,
        stop_cause: v1::StopCause::TimeLimit.into(),
        ..Default::default()
    };
    let first = offer.attempt.unwrap();
    worker.say(Say::Accepted(v1::Accepted { attempt: Some(first) })).await;
    worker.say(Say::Ended(timed_out(first))).await;
    let second = loop {
        match worker.hear().await.unwrap() {
            Some(Hear::Offer(offer)) => break offer.attempt.unwrap(),
            Some(Hear::Acknowledged(_)) => {}
            other => panic!("neither acknowledged nor offered again: {other:?}"),
        }
    };
    assert_eq!(second.attempt, 2);
    worker.say(Say::Accepted(v1::Accepted { attempt: Some(second) })).await;
    worker.say(Say::Ended(timed_out(second))).await;
    worker.acknowledged(second).await;
    let get = v1::GetBatchRequest { batch_id: batch.batch_id.clone() };
    let ended = soon("get", site.batches().get_batch(get)).await.unwrap().into_inner().batch.unwrap();
    assert_eq!(ended.scheduler_status(), v1::SchedulerStatus::Completed);
    let task = &ended.tasks[0];
    assert_eq!(
        (task.failure_reason(), task.exit_code, task.attempt),
        (v1::FailureReason::TimedOut, Some(0), 2)
    );
    assert!(task.failure_message.contains("90 s"), "{}", task.failure_message);

    let options = Some(v1::BatchOptions { max_failures: Some(0), ..Default::default() });
    let refused = site.submit(v1::SubmitBatchRequest { options, ..request }).await.unwrap_err();
    let details = refused.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "options.max_failures");
    site.running.shutdown().await.unwrap();
}
