//! Every kind of bad input gets a clear error with the field and the way out; nothing is stored by half, and
//! the coordinator goes on serving the others.

use muster_proto::v1::{
    AttachRequest, Attempt, CancelBatchRequest, Ended, GetBatchRequest, GetPolicyRequest, Hello,
    ListBatchesRequest, ListTasksRequest, PushLogsRequest, RetryBatchRequest, SubmitBatchRequest,
    TailLogsRequest, TaskInput, WatchBatchRequest, WorkerHeartbeat, attach_request,
};
use muster_tests::{Cluster, ClusterOptions, WatchLog, WorkerOptions};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::SOON;

/// Sends a payload that must be refused, and checks that nothing was stored.
async fn refused(cluster: &Cluster, request: SubmitBatchRequest) -> Status {
    // Each message limit of the client is above what the test sends: the refusal is the coordinator's.
    let mut client = cluster.batches().max_encoding_message_size(256 << 20);
    let status = client.submit_batch(request).await.expect_err("it is refused");
    assert!(!status.message().is_empty(), "an error says what is wrong: {status:?}");
    unharmed(cluster, 0).await;
    status
}

fn json(payload: &str) -> SubmitBatchRequest {
    SubmitBatchRequest { batch_json: payload.into(), ..Default::default() }
}

/// The coordinator answers, and has so many batches.
async fn unharmed(cluster: &Cluster, batches: usize) {
    let mut client = cluster.batches();
    client.get_policy(GetPolicyRequest {}).await.expect("the coordinator serves");
    let list = client.list_batches(ListBatchesRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.batches.len(), batches, "nothing is stored by half");
}

fn assert_field(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let found = violations.iter().find(|violation| violation.field == field);
    let found = found.unwrap_or_else(|| panic!("no violation of {field:?}: {violations:?} {status:?}"));
    assert!(!found.description.is_empty(), "the way out: {found:?}");
}

fn assert_reason(status: &Status, code: Code, reason: &str, metadata: &[(&str, &str)]) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "muster.v1"));
    for (key, value) in metadata {
        assert_eq!(info.metadata.get(*key).map(String::as_str), Some(*value), "{key} of {info:?}");
    }
    if code == Code::ResourceExhausted {
        assert!(details.quota_failure().is_some(), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_refused_with_the_field_and_the_way_out() {
    let cluster = Cluster::start().await;
    let big = "x".repeat(1 << 20);
    let cases = [
        ("not json", "batch_json"),
        ("", "batch_json"),
        ("{\"tasks\": {}}", "batch_json"),
        ("[]", "batch_json"),
        ("17", "batch_json"),
        ("[1]", "tasks[1]"),
        ("[\"a\", true]", "tasks[2]"),
        ("[\"a\", [\"b\"]]", "tasks[2]"),
        ("[{\"promt\": \"a\"}]", "tasks[1].promt"),
        ("[\"a\", {\"steps\": true}]", "tasks[2].steps"),
        ("[{\"prompt\": {\"x\": 1}}]", "tasks[1].prompt"),
        ("[\"a\", \"b\", {\"duration\": [5]}]", "tasks[3].duration"),
        ("[{\"sync\": \"maybe\"}]", "tasks[1].sync"),
        ("[{\"prompt\": \"a\\u0000b\"}]", "tasks[1].prompt"),
        ("[{\"card_input\": \"时长: soon\"}]", "tasks[1].card_input"),
        ("[{\"card_input\": \"seed: abc\"}]", "tasks[1].card_input"),
        ("{\"tasks\": [\"a\"], \"concurrency\": 0}", "concurrency"),
        ("{\"tasks\": [\"a\"], \"concurrency\": -3}", "concurrency"),
        ("{\"tasks\": [\"a\"], \"concurrency\": \"many\"}", "concurrency"),
    ];
    let huge_prompt = format!("[{{\"prompt\": \"{big}\"}}]");
    for (payload, field) in cases.into_iter().chain([(huge_prompt.as_str(), "tasks[1].prompt")]) {
        let status = refused(&cluster, json(payload)).await;
        let start: String = payload.chars().take(60).collect();
        eprintln!("{start} → {}", status.message().chars().take(200).collect::<String>());
        // The payload as a whole may be named with or without what is wrong in it.
        let details = status.get_error_details();
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        assert!(
            violations.iter().any(|violation| violation.field == field
                || (field == "batch_json" && ["tasks", "batch_json"].contains(&violation.field.as_str()))),
            "{start}: no violation of {field}: {violations:?}"
        );
        assert_eq!(status.code(), Code::InvalidArgument, "{start}: {status:?}");
    }
    let misspelt = refused(&cluster, json("[{\"promt\": \"a\"}]")).await;
    let details = misspelt.get_error_details();
    assert!(
        details.bad_request().unwrap().field_violations[0].description.contains("prompt"),
        "the nearest known key: {misspelt:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn request_fields_are_refused_with_their_names() {
    let cluster = Cluster::start().await;
    for concurrency in [0, -1, i32::MIN] {
        let request = SubmitBatchRequest { concurrency: Some(concurrency), ..json("[\"a\"]") };
        assert_field(&refused(&cluster, request).await, "concurrency");
    }
    let task = TaskInput { prompt: "a".into(), ..Default::default() };
    let both = SubmitBatchRequest { tasks: vec![task.clone()], ..json("[\"a\"]") };
    assert_eq!(refused(&cluster, both).await.code(), Code::InvalidArgument);
    let neither = refused(&cluster, SubmitBatchRequest::default()).await;
    assert_eq!(neither.code(), Code::InvalidArgument);
    let nul = TaskInput { prompt: "\0".into(), ..Default::default() };
    let request = SubmitBatchRequest { tasks: vec![task, nul], ..Default::default() };
    assert_field(&refused(&cluster, request).await, "tasks[2].prompt");
    let long = SubmitBatchRequest { request_id: "x".repeat(129), ..json("[\"a\"]") };
    assert_field(&refused(&cluster, long).await, "request_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_refuse_with_the_seeds_codes() {
    let cluster = Cluster::start().await;
    let tasks = |count: usize| json(&format!("[{}]", vec!["\"\""; count].join(",")));
    let million = refused(&cluster, tasks(1_000_000)).await;
    let metadata = [("task_count", "1000000"), ("system_max_tasks", "10"), ("phase", "batch_run")];
    assert_reason(&million, Code::ResourceExhausted, "BATCH_TASK_LIMIT_EXCEEDED", &metadata);
    let six = refused(&cluster, tasks(6)).await;
    let metadata = [("task_count", "6"), ("configured_max_tasks", "5")];
    assert_reason(&six, Code::FailedPrecondition, "BATCH_TASK_COUNT_REQUIRES_APPROVAL", &metadata);
    let request = SubmitBatchRequest { concurrency: Some(6), ..tasks(2) };
    let status = refused(&cluster, request).await;
    let metadata = [("requested_concurrency", "6"), ("system_max_concurrency", "5")];
    assert_reason(&status, Code::ResourceExhausted, "BATCH_CONCURRENCY_LIMIT_EXCEEDED", &metadata);
    let request = SubmitBatchRequest { concurrency: Some(4), ..tasks(2) };
    let status = refused(&cluster, request).await;
    let metadata = [("requested_concurrency", "4"), ("configured_max_concurrency", "3")];
    assert_reason(&status, Code::FailedPrecondition, "BATCH_CONCURRENCY_REQUIRES_APPROVAL", &metadata);
    let status = refused(&cluster, json("[\"a\", {\"scene\": 6}]")).await;
    let metadata = [("slug", "modelzoo-search-flow"), ("task_index", "2"), ("phase", "batch_run")];
    assert_reason(&status, Code::FailedPrecondition, "BATCH_SEARCH_FLOW_NOT_SUPPORTED", &metadata);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_100_mb_is_refused_by_its_size() {
    let cluster = Cluster::start().await;
    let status = refused(&cluster, json(&format!("[\"{}\"]", "x".repeat(100 << 20)))).await;
    assert!(
        matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange | Code::InvalidArgument),
        "{status:?}"
    );
    assert!(status.message().chars().any(|c| c.is_ascii_digit()), "it names the limit: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_arguments_together_have_a_limit() {
    let cluster = Cluster::start().await;
    // Each value is allowed, together they pass what an argument list may have.
    let params = vec!["k=".to_owned() + &"x".repeat(120_000); 10];
    let payload = serde_json::json!([{"prompt": "a", "param": params}]).to_string();
    let status = refused(&cluster, json(&payload)).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("a field").field_violations;
    assert!(violations.iter().any(|violation| violation.field.starts_with("tasks[1]")), "{violations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_tokens_and_indexes_are_refused() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(&["say a"], 1).await.batch_id;
    let mut client = cluster.batches();
    for unknown in ["0000000000000", "no-such-batch", "", "../../etc/passwd", "竹"] {
        let expected = |status: &Status| {
            assert!(
                matches!(status.code(), Code::NotFound | Code::InvalidArgument),
                "{unknown:?}: {status:?}"
            );
            if unknown == "0000000000000" {
                assert_eq!(status.code(), Code::NotFound);
            }
        };
        let batch_id = unknown.to_owned();
        expected(&client.get_batch(GetBatchRequest { batch_id: batch_id.clone() }).await.unwrap_err());
        let request = ListTasksRequest { batch_id: batch_id.clone(), ..Default::default() };
        expected(&client.list_tasks(request).await.unwrap_err());
        let request = CancelBatchRequest { batch_id: batch_id.clone(), ..Default::default() };
        expected(&client.cancel_batch(request).await.unwrap_err());
        let request = RetryBatchRequest { batch_id: batch_id.clone(), ..Default::default() };
        expected(&client.retry_batch(request).await.unwrap_err());
        let request = WatchBatchRequest { batch_id: batch_id.clone(), ..Default::default() };
        expected(&first_of(client.watch_batch(request).await).await);
        let request = TailLogsRequest { batch_id, task_index: 1, ..Default::default() };
        expected(&first_of(client.tail_logs(request).await).await);
    }
    for page_token in ["elsewhere", "AAAA", "0000000000000", "竹"] {
        let request = ListBatchesRequest { page_token: page_token.into(), ..Default::default() };
        assert_field(&client.list_batches(request).await.unwrap_err(), "page_token");
        let request =
            ListTasksRequest { batch_id: id.clone(), page_token: page_token.into(), ..Default::default() };
        assert_field(&client.list_tasks(request).await.unwrap_err(), "page_token");
    }
    let request = ListBatchesRequest { page_size: -1, ..Default::default() };
    assert_field(&client.list_batches(request).await.unwrap_err(), "page_size");
    for index in [0, -1, 2, i32::MAX] {
        let request = TailLogsRequest { batch_id: id.clone(), task_index: index, ..Default::default() };
        let status = first_of(client.tail_logs(request).await).await;
        assert!(matches!(status.code(), Code::InvalidArgument | Code::NotFound), "{index}: {status:?}");
        let request =
            CancelBatchRequest { batch_id: id.clone(), task_indexes: vec![index], ..Default::default() };
        let status = client.cancel_batch(request).await.unwrap_err();
        assert!(matches!(status.code(), Code::InvalidArgument | Code::NotFound), "{index}: {status:?}");
    }
    let request = TailLogsRequest { batch_id: id.clone(), task_index: 1, offset: -1, ..Default::default() };
    assert_field(&first_of(client.tail_logs(request).await).await, "offset");
    let request =
        TailLogsRequest { batch_id: id, task_index: 1, stream: "sideways".into(), ..Default::default() };
    assert_field(&first_of(client.tail_logs(request).await).await, "stream");
    unharmed(&cluster, 1).await;
}

/// The status of a stream that fails at once, with or without headers first.
async fn first_of<T: std::fmt::Debug>(reply: Result<tonic::Response<tonic::Streaming<T>>, Status>) -> Status {
    match reply {
        Err(status) => status,
        Ok(reply) => reply.into_inner().message().await.expect_err("the stream is refused"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_speaks_nonsense_harms_nobody() {
    let cluster = Cluster::start_with(ClusterOptions::default()).await;
    let _worker = cluster.worker(WorkerOptions::new("honest", 1)).await;
    let hello = Hello {
        protocol: 1,
        name: "stranger".into(),
        instance_id: "0123456789abcdef0123456789abcdef".into(),
        boot_id: "boot".into(),
        slots: 1,
        version: "0".into(),
        ..Default::default()
    };
    let say = |message: attach_request::Message| AttachRequest { message: Some(message) };
    let nothing = Attempt { life: 1, batch: 2, task: 3, attempt: 4 };
    let first_messages = [
        (vec![], None),
        (vec![AttachRequest { message: None }], None),
        (vec![say(attach_request::Message::Heartbeat(WorkerHeartbeat::default()))], None),
        (vec![say(attach_request::Message::Hello(Hello::default()))], None),
        (vec![say(attach_request::Message::Hello(Hello { protocol: 99, ..hello.clone() }))], None),
        (vec![say(attach_request::Message::Hello(Hello { slots: 0, ..hello.clone() }))], None),
        (vec![say(attach_request::Message::Hello(Hello { slots: 1 << 30, ..hello.clone() }))], None),
        (vec![say(attach_request::Message::Hello(Hello { name: "a b/../c".into(), ..hello.clone() }))], None),
        (
            vec![say(attach_request::Message::Hello(Hello { name: "honest".into(), ..hello.clone() }))],
            Some(Code::AlreadyExists),
        ),
    ];
    for (messages, code) in first_messages {
        let shown = format!("{messages:?}");
        // The stream stays open: the coordinator must not wait for its end.
        let stream = tokio_stream::StreamExt::chain(tokio_stream::iter(messages.clone()), forever());
        let mut client = cluster.worker_service();
        let status = if messages.is_empty() {
            first_of(client.attach(Request::new(tokio_stream::iter(messages))).await).await
        } else {
            let attach = client.attach(Request::new(stream));
            tokio::time::timeout(SOON, async { first_of(attach.await).await }).await.expect("an answer")
        };
        let fitting = [Code::InvalidArgument, Code::FailedPrecondition, Code::AlreadyExists];
        assert!(fitting.contains(&status.code()), "{shown}: {status:?}");
        assert!(code.is_none_or(|code| code == status.code()), "{shown}: {status:?}");
        assert!(!status.message().is_empty(), "{shown}");
    }

    // A worker that is let in, and then speaks of what it never got.
    let ended = Ended { attempt: Some(nothing), ..Default::default() };
    let messages = [
        say(attach_request::Message::Hello(hello.clone())),
        say(attach_request::Message::Ended(ended)),
        say(attach_request::Message::Hello(hello)),
    ];
    let mut client = cluster.worker_service();
    let reply = client.attach(Request::new(tokio_stream::iter(messages))).await;
    if let Ok(reply) = reply {
        let mut stream = reply.into_inner();
        let end = async { while let Ok(Some(_)) = stream.message().await {} };
        tokio::time::timeout(SOON, end).await.expect("the session ends");
    }
    let push = PushLogsRequest {
        attempt: Some(nothing),
        offset: 7,
        data: b"never printed".as_slice().into(),
        instance_id: "0123456789abcdef".repeat(2),
    };
    if let Ok(reply) = client.push_logs(Request::new(tokio_stream::iter([push]))).await {
        let mut stream = reply.into_inner();
        let end = async { while let Ok(Some(_)) = stream.message().await {} };
        tokio::time::timeout(SOON, end).await.expect("the stream ends");
    }

    let batch = cluster.submit(&["say still here"], 1).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(watch.tasks[&1].worker_id, "honest");
    unharmed(&cluster, 1).await;
}

fn forever() -> impl tokio_stream::Stream<Item = AttachRequest> {
    tokio_stream::pending()
}
