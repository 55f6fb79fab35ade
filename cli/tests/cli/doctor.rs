//! `muster doctor`: from nothing that listens to a fleet with a worker that is set aside.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{SocketAddr, TcpListener},
};

use muster_proto::v1::{GetInfoResponse, Worker, WorkerStatus};
use tonic::Status;

use crate::support::{Fake, Printed, info, muster};

/// The checks by name, as programs get them: status and detail with fix.
fn checks(printed: &Printed) -> BTreeMap<String, (String, String)> {
    let document: serde_json::Value =
        serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{printed:?}"));
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let checks = document["checks"].as_array().unwrap().iter();
    checks
        .map(|check| {
            let said = format!("{} | {}", text(&check["detail"]), text(&check["fix"]));
            (text(&check["check"]), (text(&check["status"]), said))
        })
        .collect()
}

async fn doctor(url: &str) -> (u8, BTreeMap<String, (String, String)>) {
    let printed = muster(url, &["doctor", "--output", "json"]).await;
    (printed.code, checks(&printed))
}

fn status<'a>(checks: &'a BTreeMap<String, (String, String)>, name: &str) -> &'a str {
    &checks[name].0
}

fn worker(name: &str, status: WorkerStatus, message: &str) -> Worker {
    Worker {
        worker_id: name.to_owned(),
        status: status.into(),
        status_message: message.to_owned(),
        slots: 4,
        held: 1,
        ..Worker::default()
    }
}

#[tokio::test]
async fn a_coordinator_with_a_worker_is_fine() {
    let fake = Fake::start();
    *fake.state.workers.lock().unwrap() = vec![worker("w1", WorkerStatus::Connected, "")];
    let (code, checks) = doctor(&fake.url()).await;
    assert_eq!(code, 0, "{checks:?}");
    for name in ["address", "host", "port", "coordinator", "serving", "version", "clock", "limits", "workers"]
    {
        assert_eq!(status(&checks, name), "ok", "{name}: {checks:?}");
    }
    assert!(checks["limits"].1.contains("3 tasks at once and 5 in a batch"), "{checks:?}");
    assert!(checks["workers"].1.contains("1 connected (1 of 4 places taken)"), "{checks:?}");
}

#[tokio::test]
async fn lines_for_people_stand_on_standard_output_and_jsonl_has_one_check_a_line() {
    let fake = Fake::start();
    let printed = fake.muster(&["doctor"]).await;
    assert_eq!((printed.code, printed.err.as_str()), (2, ""), "{printed:?}");
    let problem = printed.out.lines().position(|line| line.starts_with("problem  workers")).unwrap();
    let fix = printed.out.lines().nth(problem + 1).unwrap();
    let start = format!("fix: start one: muster-worker --coordinator {} --dispatch 'CMD'", fake.url());
    assert_eq!(fix.trim_start(), start);
    let printed = fake.muster(&["doctor", "--output", "jsonl"]).await;
    for line in printed.out.lines() {
        let check: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(check["check"].is_string() && check["status"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_a_problem_of_settings() {
    for url in ["https://127.0.0.1:7070", "http://127.0.0.1"] {
        let (code, checks) = doctor(url).await;
        assert_eq!((code, status(&checks, "address"), status(&checks, "workers")), (2, "problem", "skipped"));
        assert!(checks["address"].1.contains("MUSTER_COORDINATOR"), "{checks:?}");
    }
}

#[tokio::test]
async fn without_a_listener_it_says_how_to_start_one() {
    // Taken and let go of, so that nothing listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, checks) = doctor(&format!("http://{address}")).await;
    assert_eq!((code, status(&checks, "host"), status(&checks, "port")), (3, "ok", "problem"));
    assert!(checks["port"].1.contains("muster-coordinator --data-dir DIR"), "{checks:?}");
    assert_eq!(status(&checks, "coordinator"), "skipped");
}

/// A plain server that takes connections on a thread of its own, and writes the same to each.
fn plain(says: Option<&'static [u8]>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            match says {
                // It may have gone by now, which is no failure of this server.
                Some(bytes) => drop(stream.write_all(bytes)),
                None => open.push(stream),
            }
        }
    });
    address
}

#[tokio::test]
async fn what_is_no_coordinator_is_told_from_one() {
    let address = plain(Some(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"));
    let (code, checks) = doctor(&format!("http://{address}")).await;
    assert_eq!((code, status(&checks, "port"), status(&checks, "coordinator")), (3, "ok", "problem"));
    assert!(checks["coordinator"].1.contains("does not answer as a coordinator"), "{checks:?}");
    assert_eq!(status(&checks, "limits"), "skipped");
}

#[tokio::test]
async fn a_server_that_never_answers_does_not_hold_it_up_for_ever() {
    let (code, checks) = doctor(&format!("http://{}", plain(None))).await;
    assert_eq!((code, status(&checks, "port"), status(&checks, "coordinator")), (3, "ok", "problem"));
    assert!(checks["coordinator"].1.contains("no answer within 5 s"), "{checks:?}");
}

#[tokio::test]
async fn a_worker_that_is_set_aside_is_a_problem_with_its_reason() {
    let fake = Fake::start();
    *fake.state.workers.lock().unwrap() = vec![
        worker("w1", WorkerStatus::Connected, ""),
        worker("w2", WorkerStatus::SetAside, "3 launches in a row failed: No such file"),
        worker("w3", WorkerStatus::Disconnected, ""),
    ];
    let (code, checks) = doctor(&fake.url()).await;
    assert_eq!((code, status(&checks, "workers")), (2, "problem"));
    let said = &checks["workers"].1;
    assert!(said.contains("No such file") && said.ends_with("resume w2"), "{said}");
    // One that is only away is worth a word while another works.
    fake.state.workers.lock().unwrap().remove(1);
    let (code, checks) = doctor(&fake.url()).await;
    assert_eq!((code, status(&checks, "workers")), (0, "note"));
    // Without any that works, nothing can run.
    fake.state.workers.lock().unwrap().remove(0);
    let (code, checks) = doctor(&fake.url()).await;
    assert_eq!((code, status(&checks, "workers")), (2, "problem"));
    assert!(checks["workers"].1.contains("nothing can run: 1 disconnected (w3)"), "{checks:?}");
}

#[tokio::test]
async fn a_coordinator_that_does_not_serve_is_as_good_as_none() {
    let fake = Fake::start();
    *fake.state.workers.lock().unwrap() = vec![worker("w1", WorkerStatus::Connected, "")];
    fake.state.not_serving.store(true, std::sync::atomic::Ordering::Relaxed);
    let (code, checks) = doctor(&fake.url()).await;
    assert_eq!((code, status(&checks, "coordinator"), status(&checks, "serving")), (3, "ok", "problem"));
}

#[tokio::test]
async fn clocks_that_are_far_apart_are_a_problem() {
    let fake = Fake::start();
    *fake.state.workers.lock().unwrap() = vec![worker("w1", WorkerStatus::Connected, "")];
    fake.state.infos.lock().unwrap().push_back(Ok(info(600)));
    let (code, checks) = doctor(&fake.url()).await;
    assert_eq!((code, status(&checks, "clock")), (2, "problem"));
    assert!(checks["clock"].1.contains("ahead of") && checks["clock"].1.contains("NTP"), "{checks:?}");
}

#[tokio::test]
async fn an_older_coordinator_and_another_version_are_worth_a_word() {
    let fake = Fake::start();
    *fake.state.workers.lock().unwrap() = vec![worker("w1", WorkerStatus::Connected, "")];
    let other = GetInfoResponse { version: "9.9.9".to_owned(), ..info(0) };
    fake.state.infos.lock().unwrap().extend([Err(Status::unimplemented("no such call")), Ok(other)]);
    let (code, checks) = doctor(&fake.url()).await;
    assert_eq!((code, status(&checks, "coordinator"), status(&checks, "clock")), (0, "note", "skipped"));
    let (code, checks) = doctor(&fake.url()).await;
    assert_eq!((code, status(&checks, "version")), (0, "note"));
    assert!(checks["version"].1.contains("9.9.9"), "{checks:?}");
}
