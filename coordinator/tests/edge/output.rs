//! Output over real sockets: pushed, stored, tailed.

use muster_proto::v1::{self, attach_request::Message as Say};
use tonic::Code;
use v1::tail_logs_response::Content;

use crate::site::*;

#[tokio::test(flavor = "multi_thread")]
async fn output_is_tailed_from_a_time_on() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let attempt = worker.start().await;
    let (push, mut acks) = worker.push().await;
    let request =
        v1::TailLogsRequest { batch_id: batch.batch_id.clone(), task_index: 1, ..Default::default() };
    let mut times = Vec::new();
    for (offset, data) in [(0, &b"old\n"[..]), (4, b"new\n")] {
        let chunk = v1::PushLogsRequest {
            attempt: Some(attempt),
            offset,
            data: data.to_vec().into(),
            instance_id: Worker::hello("w1").instance_id,
        };
        push.send(chunk).await.unwrap();
        while soon("an acknowledgement", acks.message()).await.unwrap().unwrap().stored < offset + 4 {}
        let tail = site.tail(v1::TailLogsRequest { offset: offset as i64, ..request.clone() }).await.unwrap();
        let time = tail[0].time.unwrap();
        times.push(time);
        // The next piece is not of the same moment.
        let info = async || site.batches().get_info(v1::GetInfoRequest {}).await.unwrap().into_inner();
        let later = |now: prost_types::Timestamp| (now.seconds, now.nanos) > (time.seconds, time.nanos);
        while !soon("time passes", info()).await.server_time.is_some_and(later) {}
    }
    let since = |since, offset| v1::TailLogsRequest { since: Some(since), offset, ..request.clone() };
    assert_eq!(text(&site.tail(since(times[0], 0)).await.unwrap()), "old\nnew\n");
    let tail = site.tail(since(times[1], 0)).await.unwrap();
    assert_eq!((text(&tail).as_str(), tail[0].offset, tail[0].time), ("new\n", 4, Some(times[1])));
    assert_eq!(text(&site.tail(since(times[0], 6)).await.unwrap()), "w\n", "the offset is further on");
    let to_come = prost_types::Timestamp { seconds: times[1].seconds + 86_400, nanos: 0 };
    assert_eq!(site.tail(since(to_come, 0)).await.unwrap(), []);
    let follow = v1::TailLogsRequest { follow: true, ..since(to_come, 0) };
    let mut follow = soon("tail", site.batches().tail_logs(follow)).await.unwrap().into_inner();
    worker.end(attempt, 0, b"old\nnew\nlast\n").await;
    let next = soon("what comes", follow.message()).await.unwrap().unwrap();
    assert_eq!((text(std::slice::from_ref(&next)).as_str(), next.offset), ("last\n", 8));
    let wrong = prost_types::Timestamp { seconds: 0, nanos: -1 };
    let refused = site.tail(since(wrong, 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_acknowledged_when_stored_and_a_gap_is_sent_again() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let attempt = worker.start().await;
    let (push, mut acks) = worker.push().await;
    let chunk = |offset, data: &'static [u8]| v1::PushLogsRequest {
        attempt: Some(attempt),
        offset,
        data: data.into(),
        instance_id: Worker::hello("w1").instance_id,
    };
    // Of another life, and of no task that is known here.
    let foreign = v1::Attempt { life: attempt.life ^ 1, batch: attempt.batch ^ 1, ..attempt };
    push.send(v1::PushLogsRequest { attempt: Some(foreign), ..chunk(0, b"x") }).await.unwrap();
    push.send(chunk(3, b"def")).await.unwrap();
    let ack = soon("the gap", acks.message()).await.unwrap().unwrap();
    assert_eq!((ack.attempt, ack.stored), (Some(attempt), 0), "told where to go on");
    push.send(chunk(0, b"abc")).await.unwrap();
    push.send(chunk(3, b"def")).await.unwrap();
    let mut stored = 0;
    while stored < 6 {
        let ack = soon("an acknowledgement", acks.message()).await.unwrap().unwrap();
        assert!(ack.stored >= stored && ack.attempt == Some(attempt));
        stored = ack.stored;
    }
    push.send(chunk(0, b"abc")).await.unwrap();
    let ack = soon("again", acks.message()).await.unwrap().unwrap();
    assert_eq!(ack.stored, 6, "what is stored already is acknowledged too");

    let request = v1::TailLogsRequest {
        batch_id: batch.batch_id.clone(),
        task_index: 1,
        offset: 2,
        ..Default::default()
    };
    assert_eq!(text(&site.tail(request.clone()).await.unwrap()), "cdef", "so far");
    let beyond = site.tail(v1::TailLogsRequest { offset: 7, ..request.clone() }).await.unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange);
    let raw = site.tail(v1::TailLogsRequest { raw: true, ..request.clone() }).await.unwrap();
    assert_eq!(raw[0].content, Some(Content::Data(b"cdef".as_slice().into())));

    let ended = v1::Ended {
        attempt: Some(attempt),
        outcome: Some(v1::ended::Outcome::Signal(9)),
        log_size: 6,
        log_discarded: 4,
        ..Default::default()
    };
    worker.say(Say::Ended(ended)).await;
    worker.acknowledged(attempt).await;
    let all = site.tail(request).await.unwrap();
    let last = all.last().unwrap();
    assert!(last.end_of_log);
    assert_eq!(last.discarded_bytes, 4);

    push.send(v1::PushLogsRequest { attempt: None, ..chunk(0, b"x") }).await.unwrap();
    let refused = soon("the refusal", acks.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_taken_only_from_the_worker_that_has_the_attempt() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let attempt = worker.start().await;
    let other = Worker::attach(&site, Worker::hello("v2")).await.unwrap();
    let chunk = |of: &str, offset, data: &'static [u8]| v1::PushLogsRequest {
        attempt: Some(attempt),
        offset,
        data: data.into(),
        instance_id: of.to_owned(),
    };
    let [mine, theirs] = ["w1", "v2"].map(|name| Worker::hello(name).instance_id);
    // Nor with a result of its own for it.
    other.end(attempt, 0, b"forged").await;
    let (push, mut acks) = other.push().await;
    push.send(chunk(&theirs, 0, b"forged")).await.unwrap();
    drop(push);
    let end = soon("the end", acks.message()).await;
    assert!(matches!(end, Ok(None)), "read, and nothing acknowledged: {end:?}");

    let (push, mut acks) = worker.push().await;
    push.send(chunk(&mine.to_ascii_uppercase(), 0, b"true")).await.unwrap();
    while soon("an acknowledgement", acks.message()).await.unwrap().unwrap().stored < 4 {}
    worker.end(attempt, 0, b"true").await;
    worker.acknowledged(attempt).await;
    let request = v1::TailLogsRequest { batch_id: batch.batch_id, task_index: 1, ..Default::default() };
    assert_eq!(text(&site.tail(request).await.unwrap()), "true");

    push.send(chunk(&theirs, 4, b"x")).await.unwrap();
    let refused = soon("the refusal", acks.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "a stream is one worker's");
    let (push, mut acks) = worker.push().await;
    push.send(chunk("", 0, b"x")).await.unwrap();
    let refused = soon("the refusal", acks.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "and says whose");
    site.running.shutdown().await.unwrap();
}
