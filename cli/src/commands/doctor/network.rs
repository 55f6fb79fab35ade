//! From an address to a coordinator that can run something: one step after the other, each within its time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use muster_proto::v1::{
    GetInfoRequest, GetInfoResponse, GetPolicyRequest, GetPolicyResponse, ListWorkersRequest, Worker,
    WorkerStatus, batch_service_client::BatchServiceClient, fleet_service_client::FleetServiceClient,
};
use tokio::net::{TcpStream, lookup_host};
use tonic::{
    Code, Response, Status as RpcStatus,
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    client::{MAX_MESSAGE_BYTES, with_scheme},
    error::{Error, is_lost},
    progress::command,
};

use super::report::{Check, Report, Status};

/// A name that is not found by then is not found.
const RESOLVE_TIME: Duration = Duration::from_secs(5);
/// A port that takes longer to answer, over all addresses of its host, does not.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// A call that takes longer has no answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Clocks that differ by more make times and durations misleading.
const MAX_SKEW_MS: i128 = 5_000;
/// Workers that one line names.
const MAX_NAMED: usize = 5;
/// The steps after the port, in order.
const LATER: [&str; 6] = ["coordinator", "serving", "version", "clock", "limits", "workers"];

/// What a call came to.
enum Failure {
    /// Nothing within its time.
    Silent,
    /// A status, the server's own or the transport's.
    Status(RpcStatus),
}

impl Failure {
    fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::Unimplemented && !is_lost(status))
    }

    fn text(&self, url: &str) -> String {
        match self {
            Self::Silent => format!("no answer within {} s", ANSWER_TIME.as_secs()),
            Self::Status(status) => match Error::from_status(status, url) {
                Error::Unreachable { detail, .. } => detail,
                _ => status.message().to_owned(),
            },
        }
    }
}

/// Checks everything that the network is needed for. Fails only where it cannot print.
pub(super) async fn check(url: &str, report: &mut Report) -> Result<(), Error> {
    let (full, host, port) = match address(url) {
        Ok(found) => found,
        Err(check) => {
            report.add(check)?;
            return skip(report, &["host", "port"], true);
        }
    };
    report.add(Check::ok("address", full.clone()))?;
    let addresses = match resolve(&host, port).await {
        Ok(addresses) => addresses,
        Err(check) => {
            report.add(check)?;
            return skip(report, &["port"], true);
        }
    };
    let listed: Vec<String> =
        addresses.iter().take(MAX_NAMED).map(|address| address.ip().to_string()).collect();
    let known = listed.len() == 1 && listed.contains(&host);
    let detail = if known { "an IP address".to_owned() } else { format!("{host} is {}", listed.join(", ")) };
    report.add(Check::ok("host", detail))?;
    let answers = connect(&addresses, port).await;
    let reached = answers.status == Status::Ok;
    report.add(answers)?;
    let endpoint = Endpoint::from_shared(full.clone()).ok().filter(|_| reached);
    let Some(endpoint) = endpoint else { return skip(report, &[], true) };
    let channel = endpoint.connect_timeout(CONNECT_TIME).connect_lazy();
    coordinator(&full, &channel, report).await
}

/// The steps that cannot be done, by name.
fn skip(report: &mut Report, first: &[&'static str], all: bool) -> Result<(), Error> {
    let rest = if all { &LATER[..] } else { &LATER[1..] };
    first.iter().chain(rest).try_for_each(|name| {
        report.add(Check::new(name, Status::Skipped, "what it needs has a problem, see above"))
    })
}

/// The address as it is called, its host and its port.
fn address(given: &str) -> Result<(String, String, u16), Check> {
    let bad = |detail: &str| {
        Check::new("address", Status::Problem, format!("{given}: {detail}"))
            .fix("give --coordinator http://HOST:PORT, or set MUSTER_COORDINATOR to it")
    };
    let full = with_scheme(given);
    let uri: Uri = full.parse().map_err(|_| bad("is no address"))?;
    if uri.scheme_str() != Some("http") {
        return Err(bad("only http:// is supported"));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("names no host"))?;
    let port = uri.port_u16().ok_or_else(|| bad("names no port (coordinators listen on 7070)"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((full, host, port))
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Check> {
    let bad = |detail: String| {
        Check::new("host", Status::Unreachable, format!("{host} is not found: {detail}"))
            .fix("correct the name, or give the machine's IP address")
    };
    match tokio::time::timeout(RESOLVE_TIME, lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let found: Vec<_> = found.collect();
            if found.is_empty() { Err(bad("no address".to_owned())) } else { Ok(found) }
        }
        Ok(Err(error)) => Err(bad(error.to_string())),
        Err(_) => Err(bad(format!("no answer within {} s", RESOLVE_TIME.as_secs()))),
    }
}

async fn connect(addresses: &[SocketAddr], port: u16) -> Check {
    let bad = |detail: String| {
        Check::new("port", Status::Unreachable, format!("nothing answers at port {port}: {detail}")).fix(
            "start one there: muster-coordinator --data-dir DIR; or give its real port; \
             or open the way to it (firewall, container, --listen)",
        )
    };
    // Each has its share, so that one that is silent does not hide one that answers.
    let share = CONNECT_TIME / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = "it has no address".to_owned();
    for address in addresses {
        last = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Check::ok("port", format!("{address} answers")),
            Ok(Err(error)) => format!("{address}: {error}"),
            Err(_) => format!("{address}: no answer within {} ms", share.as_millis()),
        };
    }
    bad(last)
}

async fn call<T>(answer: impl Future<Output = Result<Response<T>, RpcStatus>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_TIME, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::Status(status)),
        Err(_) => Err(Failure::Silent),
    }
}

/// Whether a coordinator answers, and everything that it says of itself.
async fn coordinator(url: &str, channel: &Channel, report: &mut Report) -> Result<(), Error> {
    let mut batches = BatchServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (begun, sent_at) = (Instant::now(), SystemTime::now());
    let info = call(batches.get_info(GetInfoRequest {})).await;
    let round_trip = begun.elapsed();
    // One that is older than this question answers the other.
    let policy = match &info {
        Err(failure) if !failure.is_unimplemented() => None,
        _ => Some(call(batches.get_policy(GetPolicyRequest {})).await),
    };
    let found = identity(url, &info, policy.as_ref());
    let found_one = matches!(found.status, Status::Ok | Status::Note);
    report.add(found)?;
    if !found_one {
        return skip(report, &[], false);
    }
    report.add(serving(url, channel).await)?;
    match &info {
        Ok(info) => {
            report.add(version(&info.version))?;
            report.add(clock(info, sent_at, round_trip))?;
        }
        Err(_) => {
            for name in ["version", "clock"] {
                report.add(Check::new(name, Status::Skipped, "the coordinator does not tell"))?;
            }
        }
    }
    report.add(match policy {
        Some(Ok(policy)) => limits(&policy),
        Some(Err(failure)) => Check::new("limits", Status::Problem, failure.text(url)),
        None => Check::new("limits", Status::Skipped, "not asked"),
    })?;
    let mut fleet = FleetServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    report.add(match call(fleet.list_workers(ListWorkersRequest {})).await {
        Ok(reply) => workers(&reply.workers, url),
        Err(failure) => Check::new("workers", Status::Problem, failure.text(url)),
    })
}

fn identity(
    url: &str,
    info: &Result<GetInfoResponse, Failure>,
    policy: Option<&Result<GetPolicyResponse, Failure>>,
) -> Check {
    const NAME: &str = "coordinator";
    match (info, policy) {
        (Ok(info), _) => Check::ok(NAME, format!("one answers, with the store {}", info.life_id)),
        (Err(_), Some(Ok(_))) => {
            Check::new(NAME, Status::Note, "one answers that is older than this command")
        }
        (Err(failure), _) if failure.is_unimplemented() => {
            Check::new(NAME, Status::Problem, "a gRPC server answers that is no muster-coordinator")
                .fix("give the coordinator's own address: --coordinator http://HOST:PORT")
        }
        (Err(failure), _) => {
            let detail = format!(
                "something listens there that does not answer as a coordinator: {}",
                failure.text(url)
            );
            Check::new(NAME, Status::Unreachable, detail).fix(
                "see that the port is muster-coordinator's, without TLS or an HTTP/1 proxy before it; \
                 its log says whether it has trouble",
            )
        }
    }
}

async fn serving(url: &str, channel: &Channel) -> Check {
    const NAME: &str = "serving";
    let mut health = HealthClient::new(channel.clone());
    match call(health.check(HealthCheckRequest::default())).await {
        Ok(reply) if reply.status() == ServingStatus::Serving => Check::ok(NAME, "it says that it serves"),
        Ok(_) => Check::new(NAME, Status::Unreachable, "it says that it does not serve")
            .fix("it starts, stops, or its disk has failed: its log says which"),
        Err(failure) if failure.is_unimplemented() => {
            Check::new(NAME, Status::Note, "it has no health service")
        }
        Err(failure) => Check::new(NAME, Status::Unreachable, failure.text(url)).fix("its log says more"),
    }
}

fn version(theirs: &str) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    if theirs == ours {
        return Check::ok("version", format!("{ours}, here and there"));
    }
    Check::new("version", Status::Note, format!("the coordinator is {theirs}, this command {ours}"))
        .fix("use the same version on both sides where something does not work")
}

/// The server read its clock somewhere within the round trip: taken as the middle of it.
fn clock(info: &GetInfoResponse, sent_at: SystemTime, round_trip: Duration) -> Check {
    const NAME: &str = "clock";
    let Some(time) = &info.server_time else {
        return Check::new(NAME, Status::Skipped, "the coordinator does not tell");
    };
    let theirs = i128::from(time.seconds) * 1_000 + i128::from(time.nanos / 1_000_000);
    let ours = (sent_at + round_trip / 2).duration_since(UNIX_EPOCH).unwrap_or_default();
    let skew = theirs - i128::try_from(ours.as_millis()).unwrap_or(i128::MAX);
    let seconds = format!("{}.{}", skew.abs() / 1_000, skew.abs() % 1_000 / 100);
    if skew.abs() <= MAX_SKEW_MS {
        return Check::ok(NAME, format!("{seconds} s apart"));
    }
    let way = if skew > 0 { "ahead of" } else { "behind" };
    Check::new(NAME, Status::Problem, format!("the coordinator's is {seconds} s {way} this machine's"))
        .fix("set both by a time service (NTP); until then times that are shown mislead")
}

fn limits(policy: &GetPolicyResponse) -> Check {
    Check::ok(
        "limits",
        format!(
            "{} tasks at once and {} in a batch, with approval {} and {}",
            policy.max_concurrency, policy.max_tasks, policy.system_max_concurrency, policy.system_max_tasks
        ),
    )
}

fn workers(workers: &[Worker], url: &str) -> Check {
    const NAME: &str = "workers";
    let of = |status: WorkerStatus| workers.iter().filter(move |worker| worker.status() == status);
    let places: i64 = of(WorkerStatus::Connected).map(|worker| i64::from(worker.slots)).sum();
    let held: i64 = of(WorkerStatus::Connected).map(|worker| i64::from(worker.held)).sum();
    let mut parts = Vec::new();
    let groups = [
        (WorkerStatus::Connected, "connected"),
        (WorkerStatus::SetAside, "set aside"),
        (WorkerStatus::Draining, "draining"),
        (WorkerStatus::Disconnected, "disconnected"),
        (WorkerStatus::Lost, "lost"),
    ];
    for (status, word) in groups {
        let count = of(status).count();
        if count == 0 {
            continue;
        }
        let detail = match status {
            WorkerStatus::Connected => format!("{held} of {places} places taken"),
            _ => named(of(status)),
        };
        parts.push(format!("{count} {word} ({detail})"));
    }
    let first = |status: WorkerStatus| of(status).next().map(|worker| worker.worker_id.as_str());
    let start = format!("muster-worker --coordinator {url} --dispatch 'CMD'");
    let detail = if parts.is_empty() { "no worker is known".to_owned() } else { parts.join(", ") };
    let working = first(WorkerStatus::Connected).is_some();
    if let Some(name) = first(WorkerStatus::SetAside) {
        return Check::new(NAME, Status::Problem, detail).fix(format!(
            "mend the program that it dispatches, then: {}",
            command(url, &format!("resume {name}"))
        ));
    }
    if working {
        let all = parts.len() == 1;
        return Check::new(NAME, if all { Status::Ok } else { Status::Note }, detail);
    }
    let fix = match (first(WorkerStatus::Draining), first(WorkerStatus::Disconnected)) {
        (Some(name), _) => {
            format!("{}, or start another: {start}", command(url, &format!("resume {name}")))
        }
        (None, Some(_)) => format!("see that its machine is up and reaches the coordinator, or: {start}"),
        (None, None) => format!("start one: {start}"),
    };
    Check::new(NAME, Status::Problem, format!("nothing can run: {detail}")).fix(fix)
}

/// The first few by name, with what there is to know.
fn named<'a>(mut workers: impl Iterator<Item = &'a Worker>) -> String {
    let mut parts: Vec<String> = workers
        .by_ref()
        .take(MAX_NAMED)
        .map(|worker| match worker.status_message.as_str() {
            "" => worker.worker_id.clone(),
            message => format!("{}: {message}", worker.worker_id),
        })
        .collect();
    let more = workers.count();
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_or_refused_with_the_way_out() {
        let of = |given| address(given).map(|(_, host, port)| (host, port)).map_err(|check| check.status);
        assert_eq!(of("http://127.0.0.1:7070"), Ok(("127.0.0.1".to_owned(), 7070)));
        assert_eq!(of("box:7070"), Ok(("box".to_owned(), 7070)));
        assert_eq!(of("http://[::1]:1"), Ok(("::1".to_owned(), 1)));
        for bad in ["https://box:7070", "http://box", "http://", "a b", "", "http://box:99999"] {
            assert_eq!(of(bad), Err(Status::Problem), "{bad:?}");
        }
    }

    fn told(seconds_off: i64) -> Check {
        let now = SystemTime::now();
        let since = now.duration_since(UNIX_EPOCH).unwrap();
        let seconds = i64::try_from(since.as_secs()).unwrap() + seconds_off;
        let nanos = i32::try_from(since.subsec_nanos()).unwrap();
        let server_time = Some(prost_types::Timestamp { seconds, nanos });
        let info = GetInfoResponse { server_time, ..GetInfoResponse::default() };
        // Sent three seconds ago, and half of the two seconds of the round trip later it was answered.
        clock(&info, now - Duration::from_secs(3), Duration::from_secs(2))
    }

    #[test]
    fn clocks_are_compared_in_the_middle_of_the_round_trip() {
        // As seen from the middle of the round trip, two seconds ago, the other clock is two seconds ahead.
        assert_eq!((told(-2).status, told(-2).detail.as_str()), (Status::Ok, "0.0 s apart"));
        assert_eq!(told(3).status, Status::Ok, "5 s");
        let ahead = told(4);
        assert_eq!(ahead.status, Status::Problem);
        assert!(ahead.detail.contains("6.0 s ahead of"), "{ahead:?}");
        assert!(told(-20).detail.contains("18.0 s behind"), "{:?}", told(-20));
    }
}
