//! Why a batch was refused, as one type that an edge turns into its own kind of error.
//!
//! Messages say the way out. Nothing here grows with the input: violations are counted and clipped, so that
//! the details of a status stay small.

use std::fmt;

use super::payload::FieldViolation;

/// What a batch was sent for; errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Submitted to run.
    Run,
    /// Only shown as cards.
    Prefill,
}

impl Phase {
    /// The name in error metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "batch_run",
            Self::Prefill => "batch_prefill",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a batch was refused. Nothing of it was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something in the request cannot be read, or can never run. Never empty, at most
    /// [`MAX_VIOLATIONS`](super::payload::MAX_VIOLATIONS).
    #[error("{}", Violations(.0))]
    Invalid(Vec<FieldViolation>),

    /// More tasks than the operator allows at all.
    #[error(
        "the batch has {task_count} tasks and this coordinator takes at most {system_max_tasks} in one batch; \
         split it into smaller batches (no approval lifts this limit)"
    )]
    TaskLimitExceeded { phase: Phase, task_count: usize, configured_max_tasks: u32, system_max_tasks: u32 },

    /// More tasks than may start without somebody's explicit word.
    #[error(
        "the batch has {task_count} tasks, more than the configured {configured_max_tasks}; ask its owner, then \
         send it again with task_count_approved (--task-count-approved), or split it into smaller batches"
    )]
    TaskCountRequiresApproval {
        phase: Phase,
        task_count: usize,
        configured_max_tasks: u32,
        system_max_tasks: u32,
    },

    /// More at once than the operator allows at all.
    #[error(
        "concurrency {requested_concurrency} is over this coordinator's limit of {system_max_concurrency}; ask \
         for at most {system_max_concurrency} (no approval lifts this limit)"
    )]
    ConcurrencyLimitExceeded {
        requested_concurrency: i64,
        configured_max_concurrency: u32,
        system_max_concurrency: u32,
    },

    /// More at once than may run without somebody's explicit word.
    #[error(
        "concurrency {requested_concurrency} is over the configured {configured_max_concurrency}; ask the \
         batch's owner, then send it again with concurrency_approved (--concurrency-approved), or ask for at \
         most {configured_max_concurrency}"
    )]
    ConcurrencyRequiresApproval {
        requested_concurrency: i64,
        configured_max_concurrency: u32,
        system_max_concurrency: u32,
    },

    /// A task names an interactive search instead of a model.
    #[error(
        "task {task_index} resolves to {slug}, an interactive search and no model, which a batch cannot run; \
         search first, then put the model's slug or endpoint into the task"
    )]
    SearchFlowNotSupported { slug: String, task_index: u32, phase: Phase },

    /// Models are looked up with an API key, and there is none.
    #[error(
        "models are looked up with an API key, and there is none: give api_key in the request (the command takes \
         --api-key-file FILE, or BIZYAIR_API_KEY from its environment), or credentials.api_key in the \
         coordinator's config.json; a placeholder such as YOUR_API_KEY counts as none"
    )]
    NoApiKey,
}

impl Refusal {
    /// The interface's code for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_ARGUMENT",
            Self::TaskLimitExceeded { .. } => "BATCH_TASK_LIMIT_EXCEEDED",
            Self::TaskCountRequiresApproval { .. } => "BATCH_TASK_COUNT_REQUIRES_APPROVAL",
            Self::ConcurrencyLimitExceeded { .. } => "BATCH_CONCURRENCY_LIMIT_EXCEEDED",
            Self::ConcurrencyRequiresApproval { .. } => "BATCH_CONCURRENCY_REQUIRES_APPROVAL",
            Self::SearchFlowNotSupported { .. } => "BATCH_SEARCH_FLOW_NOT_SUPPORTED",
            Self::NoApiKey => "NO_API_KEY",
        }
    }

    /// The interface's metadata for it.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Invalid(_) | Self::NoApiKey => Vec::new(),
            Self::TaskLimitExceeded { phase, task_count, configured_max_tasks, system_max_tasks }
            | Self::TaskCountRequiresApproval { phase, task_count, configured_max_tasks, system_max_tasks } =>
            {
                vec![
                    ("phase", phase.to_string()),
                    ("task_count", task_count.to_string()),
                    ("configured_max_tasks", configured_max_tasks.to_string()),
                    ("system_max_tasks", system_max_tasks.to_string()),
                ]
            }
            Self::ConcurrencyLimitExceeded {
                requested_concurrency,
                configured_max_concurrency,
                system_max_concurrency,
            }
            | Self::ConcurrencyRequiresApproval {
                requested_concurrency,
                configured_max_concurrency,
                system_max_concurrency,
            } => vec![
                ("requested_concurrency", requested_concurrency.to_string()),
                ("configured_max_concurrency", configured_max_concurrency.to_string()),
                ("system_max_concurrency", system_max_concurrency.to_string()),
            ],
            Self::SearchFlowNotSupported { slug, task_index, phase } => vec![
                ("slug", slug.clone()),
                ("task_index", task_index.to_string()),
                ("phase", phase.to_string()),
            ],
        }
    }

    /// One violation as a refusal.
    pub(crate) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldViolation::new(field, description)])
    }
}

/// The first violation in full, the others as a count: a status carries all of them in its details.
struct Violations<'a>(&'a [FieldViolation]);

impl fmt::Display for Violations<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("the batch cannot be read"),
            [only] => only.fmt(f),
            [first, others @ ..] => write!(f, "{first} (and {} more)", others.len()),
        }
    }
}
