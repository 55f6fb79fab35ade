//! Everything that can go wrong, what it says, and the exit code that it ends with.
//!
//! [`Error::exit`] is the one table to exit codes; [`Error::from_status`] the one table from gRPC codes.

use std::{collections::BTreeMap, error::Error as _, fmt, io, process::ExitCode};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    input::{
        origin::Origin,
        problem::{Problem, report},
        snippet::Style,
    },
    progress::command,
    sanitize::one_line,
};

/// The documented exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: all tasks completed, or what was asked for was done.
    Completed,
    /// 1: some tasks did not complete, or something local went wrong.
    NotAllCompleted,
    /// 2: rejected: limits, bad input, unknown names.
    Rejected,
    /// 3: the coordinator is unreachable or gone.
    Unreachable,
    /// 130: interrupted.
    Interrupted,
}

impl Exit {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Completed, Self::NotAllCompleted, Self::Rejected, Self::Unreachable, Self::Interrupted];

    /// What it means, as `muster --help` and the documentation say it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Completed => "all tasks completed, or it was done as asked",
            Self::NotAllCompleted => "some tasks did not complete, or something local failed",
            Self::Rejected => "rejected: limits, bad input, unknown names",
            Self::Unreachable => "the coordinator is unreachable or gone",
            Self::Interrupted => "interrupted",
        }
    }

    /// As the shell sees it.
    pub const fn code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::NotAllCompleted => 1,
            Self::Rejected => 2,
            Self::Unreachable => 3,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers at the address.
    #[error(
        "no coordinator answers at {url} ({detail}); start one with: muster-coordinator --data-dir DIR; or look for \
         what is wrong with: {}",
        command(url, "doctor")
    )]
    Unreachable {
        /// The address.
        url: String,
        /// What the transport said.
        detail: String,
        /// The request may have arrived and been carried out.
        sent: bool,
    },
    /// It answered before, went away, and did not come back in time.
    #[error("the coordinator at {url} has been away for {seconds} s; giving up (what runs goes on running)")]
    GaveUp {
        /// The address.
        url: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The coordinator refused the request.
    #[error("{0}")]
    Rejected(Box<Rejection>),
    /// The coordinator could not do what it should have done.
    #[error("the coordinator could not carry out the request ({code:?}): {message}")]
    CoordinatorFailed {
        /// Its gRPC code.
        code: Code,
        /// Its words.
        message: String,
    },
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The batch was found wrong before it was sent.
    #[error("{report}")]
    Input {
        /// How much is wrong.
        problems: usize,
        /// A line for each, some with the lines around it; safe to print.
        report: String,
    },
    /// The user was asked and did not approve.
    #[error("not approved; nothing was run")]
    NotApproved,
    /// A file that was named cannot be used.
    #[error("{path}: {source}")]
    Read {
        /// As the user named it.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output, or a folder of ours, cannot be written.
    #[error("{what}: {source}")]
    Write {
        /// What was being written.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no random bytes, so no safe request id can be made.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// The coordinator or the worker of `muster run` could not be started or failed.
    #[error("{0}")]
    Embedded(String),
    /// Whoever read standard output went away: not worth a word.
    #[error("closed pipe")]
    ClosedPipe,
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The exit code. Exhaustive on purpose: a new error has to choose.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::ClosedPipe => Exit::Completed,
            Self::Write { .. } | Self::Random(_) => Exit::NotAllCompleted,
            Self::Rejected(_)
            | Self::Usage(_)
            | Self::Input { .. }
            | Self::NotApproved
            | Self::Read { .. } => Exit::Rejected,
            Self::Unreachable { .. }
            | Self::GaveUp { .. }
            | Self::CoordinatorFailed { .. }
            | Self::Embedded(_) => Exit::Unreachable,
            Self::Interrupted => Exit::Interrupted,
        }
    }

    /// What to print, if anything: `error: …`, one line per field violation, and the way out.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::ClosedPipe => None,
            Self::Interrupted => Some("interrupted".to_owned()),
            Self::Rejected(rejection) => Some(format!("error: {rejection}")),
            Self::Input { problems: 1, report } => {
                Some(format!("error: the batch cannot be used as it is; nothing was sent\n{report}"))
            }
            Self::Input { problems, report } => {
                Some(format!("error: the batch has {problems} problems; nothing was sent\n{report}"))
            }
            other => Some(format!("error: {}", one_line(&other.to_string()))),
        }
    }

    /// From a failed call to the coordinator at `url`.
    pub fn from_status(status: &Status, url: &str) -> Self {
        if is_lost(status) {
            let (detail, sent) = (root_cause(status), !never_connected(status));
            return Self::Unreachable { url: url.to_owned(), detail, sent };
        }
        match status.code() {
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::NotFound
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => Self::Rejected(Box::new(Rejection::from_status(status))),
            code @ (Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss) => Self::CoordinatorFailed { code, message: status.message().to_owned() },
        }
    }

    /// Whether a call that failed so may have been carried out all the same.
    pub const fn leaves_open(&self) -> bool {
        matches!(self, Self::Unreachable { sent: true, .. } | Self::CoordinatorFailed { .. })
    }

    /// Replaces what a refusal for `reason` says can be done about it, for a command that knows better.
    pub fn with_way_out(mut self, reason: &str, way_out: &'static str) -> Self {
        if let Self::Rejected(rejection) = &mut self
            && rejection.reason == reason
        {
            rejection.own_way_out = Some(way_out);
        }
        self
    }

    /// From a failed write of data.
    pub fn from_write(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            Self::ClosedPipe
        } else {
            Self::Write { what: "standard output".to_owned(), source }
        }
    }
}

/// Whether a call failed because the coordinator is not there (any more), so that the same call may succeed
/// once it is back. A status that the coordinator itself sent has no source; one made of a broken connection has.
pub fn is_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

/// Whether there was no connection at all that the request could have gone over.
fn never_connected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
            if matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable) {
                return true;
            }
        }
        source = cause.source();
    }
    false
}

fn root_cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

/// A refusal, with everything that the coordinator said about it.
#[derive(Debug)]
pub struct Rejection {
    /// Its gRPC code.
    pub code: Code,
    /// Its reason code, such as `BATCH_TASK_LIMIT_EXCEEDED`; empty where none was given.
    pub reason: String,
    /// Its words.
    pub message: String,
    /// Field and what is wrong with it.
    pub violations: Vec<(String, String)>,
    /// The figures behind the reason.
    pub metadata: BTreeMap<String, String>,
    /// What the command itself knows can be done about it.
    own_way_out: Option<&'static str>,
    /// Violations that have a place in what was handed in, as they are to be printed.
    located: String,
    /// The command that repeats the call with approval, and the words before it; safe to print.
    pub repeat: Option<String>,
}

impl Rejection {
    fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let mut violations = Vec::new();
        for violation in details.bad_request().into_iter().flat_map(|list| &list.field_violations) {
            violations.push((violation.field.clone(), violation.description.clone()));
        }
        let (reason, metadata) = details
            .error_info()
            .map(|info| (info.reason.clone(), info.metadata.clone().into_iter().collect()))
            .unwrap_or_default();
        let (code, message) = (status.code(), status.message().to_owned());
        Self {
            code,
            reason,
            message,
            violations,
            metadata,
            own_way_out: None,
            located: String::new(),
            repeat: None,
        }
    }

    /// Shows the place of each violation that has one in the text that the batch came from.
    pub fn locate(&mut self, origin: &Origin, style: Style) {
        let mut problems = Vec::new();
        self.violations.retain(|(field, description)| {
            let place = origin.find(field, description);
            if place.is_some() {
                problems.push(Problem::new(field, description.clone(), place.clone()));
            }
            place.is_none()
        });
        if self.reason == "BATCH_SEARCH_FLOW_NOT_SUPPORTED" {
            let field = format!("tasks[{}].model", self.figure("task_index"));
            if let place @ Some(_) = origin.find(&field, "") {
                problems.push(Problem::new(&field, "a search flow".to_owned(), place));
            }
        }
        self.located = report(&problems, origin, style);
    }

    /// A figure of the refusal, `?` where it is not given.
    pub fn figure(&self, key: &str) -> &str {
        self.metadata.get(key).map_or("?", String::as_str)
    }

    /// Whether the coordinator's own words name the flag, or the only thing that can be done.
    fn names_its_way_out(&self) -> bool {
        let words = match self.reason.as_str() {
            "BATCH_TASK_COUNT_REQUIRES_APPROVAL" => "--task-count-approved",
            "BATCH_CONCURRENCY_REQUIRES_APPROVAL" => "--concurrency-approved",
            "BATCH_TASK_LIMIT_EXCEEDED" | "BATCH_CONCURRENCY_LIMIT_EXCEEDED" => {
                "no approval lifts this limit"
            }
            "BATCH_SEARCH_FLOW_NOT_SUPPORTED" => "search first",
            "NO_API_KEY" => "--api-key-file",
            _ => return false,
        };
        self.message.contains(words)
    }

    /// What the user can do about it, where there is something and the coordinator does not say it.
    pub fn way_out(&self) -> Option<String> {
        if self.names_its_way_out() {
            return None;
        }
        if let Some(way_out) = self.own_way_out {
            return Some(way_out.to_owned());
        }
        Some(match self.reason.as_str() {
            "BATCH_TASK_COUNT_REQUIRES_APPROVAL" => format!(
                "{} tasks are more than the {} allowed without approval; to approve, add: --task-count-approved",
                self.figure("task_count"),
                self.figure("configured_max_tasks"),
            ),
            "BATCH_CONCURRENCY_REQUIRES_APPROVAL" => format!(
                "{} at once are more than the {limit} allowed without approval; to approve, add: \
                 --concurrency-approved (or stay within: --concurrency {limit})",
                self.figure("requested_concurrency"),
                limit = self.figure("configured_max_concurrency"),
            ),
            "BATCH_TASK_LIMIT_EXCEEDED" => format!(
                "no approval lifts this limit; split the batch into parts of at most {} tasks",
                self.figure("system_max_tasks"),
            ),
            "BATCH_CONCURRENCY_LIMIT_EXCEEDED" => format!(
                "no approval lifts this limit; ask for at most: --concurrency {}",
                self.figure("system_max_concurrency"),
            ),
            "BATCH_SEARCH_FLOW_NOT_SUPPORTED" => format!(
                "search flows cannot run in a batch; give task {} another model",
                self.figure("task_index"),
            ),
            "NO_API_KEY" => "give the key with --api-key-file FILE or in BIZYAIR_API_KEY".to_owned(),
            _ => match self.code {
                Code::AlreadyExists => {
                    "this --request-id belongs to other content; leave it out or choose another".to_owned()
                }
                // Most of these name the way out themselves.
                Code::NotFound if self.message.contains("`muster ") => return None,
                Code::NotFound if matches!(self.reason.as_str(), "TASK_NOT_FOUND" | "ATTEMPT_NOT_FOUND") => {
                    "`muster status BATCH` shows the batch's tasks".to_owned()
                }
                Code::NotFound => "`muster list` shows the batches, `muster workers` the workers".to_owned(),
                Code::Unimplemented => "the coordinator is older than this command; upgrade it".to_owned(),
                _ => return None,
            },
        })
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = if self.message.is_empty() { "the request was refused" } else { &self.message };
        f.write_str(&one_line(message))?;
        if !self.reason.is_empty() {
            write!(f, " [{}]", one_line(&self.reason))?;
        }
        for (field, description) in &self.violations {
            // The message is often the first of them.
            if ![" ", ": "].iter().any(|gap| message.contains(&format!("{field}{gap}{description}"))) {
                write!(f, "\n  {}: {}", one_line(field), one_line(description))?;
            }
        }
        if !self.located.is_empty() {
            write!(f, "\n{}", self.located)?;
        }
        // The whole command is the better way out.
        match (&self.repeat, self.way_out()) {
            (Some(repeat), _) => write!(f, "\n  {repeat}"),
            (None, Some(way_out)) => write!(f, "\n  {}", one_line(&way_out)),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    const URL: &str = "http://127.0.0.1:7070";

    #[test]
    fn every_grpc_code_has_its_exit_code() {
        let table = [
            (Code::InvalidArgument, 2),
            (Code::FailedPrecondition, 2),
            (Code::ResourceExhausted, 2),
            (Code::NotFound, 2),
            (Code::AlreadyExists, 2),
            (Code::OutOfRange, 2),
            (Code::PermissionDenied, 2),
            (Code::Unauthenticated, 2),
            (Code::Unimplemented, 2),
            (Code::Unavailable, 3),
            (Code::Internal, 3),
            (Code::Unknown, 3),
            (Code::Cancelled, 3),
            (Code::DeadlineExceeded, 3),
            (Code::Aborted, 3),
            (Code::DataLoss, 3),
        ];
        for (code, exit) in table {
            let error = Error::from_status(&Status::new(code, "words"), URL);
            assert_eq!(error.exit().code(), exit, "{code:?}");
        }
        assert_eq!(Error::Interrupted.exit().code(), 130);
        assert_eq!(Error::ClosedPipe.text(), None);
    }

    #[test]
    fn an_absent_coordinator_names_the_command_that_starts_one() {
        let text = Error::from_status(&Status::unavailable("refused"), URL).text().unwrap();
        assert!(text.contains(URL) && text.contains("muster-coordinator --data-dir DIR"), "{text}");
    }

    fn refused(code: Code, reason: &str, figures: &[(&str, &str)]) -> String {
        let metadata: HashMap<String, String> =
            figures.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let details = ErrorDetails::with_error_info(reason, "muster.v1", metadata);
        let status = Status::with_error_details(code, "no", details);
        Error::from_status(&status, URL).text().unwrap()
    }

    #[test]
    fn approvals_name_the_exact_flag() {
        let text = refused(
            Code::FailedPrecondition,
            "BATCH_TASK_COUNT_REQUIRES_APPROVAL",
            &[("task_count", "7"), ("configured_max_tasks", "5")],
        );
        assert!(text.contains("--task-count-approved") && text.contains('7') && text.contains('5'), "{text}");
        let text = refused(
            Code::FailedPrecondition,
            "BATCH_CONCURRENCY_REQUIRES_APPROVAL",
            &[("requested_concurrency", "4"), ("configured_max_concurrency", "3")],
        );
        assert!(text.contains("--concurrency-approved") && text.contains("--concurrency 3"), "{text}");
        let text =
            refused(Code::ResourceExhausted, "BATCH_TASK_LIMIT_EXCEEDED", &[("system_max_tasks", "10")]);
        assert!(text.contains("10 tasks") && !text.contains("approved"), "{text}");
        assert!(refused(Code::FailedPrecondition, "NO_API_KEY", &[]).contains("--api-key-file"));
    }

    #[test]
    fn what_is_wrong_with_cards_names_card_and_line_once_each() {
        let (first, second) = (("cards[2].aspect_ratio", "line 14: odd"), ("cards[3]", "line 20: no model"));
        let mut details = ErrorDetails::with_error_info("INVALID_ARGUMENT", "muster.v1", HashMap::new());
        details.add_bad_request_violation(first.0, first.1);
        details.add_bad_request_violation(second.0, second.1);
        let message = "cards[2].aspect_ratio line 14: odd (and 1 more)";
        let status = Status::with_error_details(Code::InvalidArgument, message, details);
        assert_eq!(
            Error::from_status(&status, URL).text().unwrap(),
            "error: cards[2].aspect_ratio line 14: odd (and 1 more) [INVALID_ARGUMENT]\n  cards[3]: line 20: no model"
        );
    }

    #[test]
    fn a_command_may_know_a_better_way_out_of_one_refusal() {
        let refuse = |reason: &str| {
            let details = ErrorDetails::with_error_info(reason, "muster.v1", HashMap::new());
            let status = Status::with_error_details(Code::FailedPrecondition, "no", details);
            Error::from_status(&status, URL).with_way_out("NO_API_KEY", "do this").text().unwrap()
        };
        assert!(refuse("NO_API_KEY").ends_with("\n  do this"));
        assert!(!refuse("BATCH_TASK_COUNT_REQUIRES_APPROVAL").contains("do this"));
    }

    #[test]
    fn each_violation_has_its_line_and_cannot_forge_another() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("tasks[3].promt", "unknown; did you mean prompt?");
        details.add_bad_request_violation("tasks[4].seed", "bad\nerror: \u{1b}[2Jforged");
        let status = Status::with_error_details(Code::InvalidArgument, "2 problems", details);
        let text = Error::from_status(&status, URL).text().unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "error: 2 problems");
        assert_eq!(lines[1], "  tasks[3].promt: unknown; did you mean prompt?");
        assert_eq!(lines.len(), 3);
        assert!(!text.contains('\u{1b}'));
    }
}
