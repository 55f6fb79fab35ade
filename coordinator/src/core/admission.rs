//! Whether a batch fits the limits in force, and how many of its tasks may run at once.
//!
//! Decides on counts alone; it neither reads the tasks nor plans them.

use super::integer::Integer;
use super::payload::Payload;
use super::policy::Policy;
pub use super::refusal::{Phase, Refusal};

/// What the submitter said yes to, for this request only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Approvals {
    /// More at once than configured.
    pub concurrency: bool,
    /// More tasks than configured.
    pub task_count: bool,
}

/// The figures of a batch that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Tasks at once as asked for (request, else payload, else the configured maximum).
    pub requested_concurrency: u32,
    /// Tasks at once as granted: the requested ones, the system's limit and the number of tasks, the least.
    pub effective_concurrency: u32,
    /// The configured limit at the time.
    pub configured_max_concurrency: u32,
    /// The configured limit at the time.
    pub configured_max_tasks: u32,
}

/// Admits or refuses a batch by its number of tasks and its concurrency.
///
/// `request_concurrency` is the request's own field and goes before the payload's. A prefill runs nothing: it
/// never looks at what concurrency was asked for, and its figures are those of a batch that asked for none.
pub fn admit(
    policy: &Policy,
    phase: Phase,
    request_concurrency: Option<i32>,
    payload: &Payload,
    approvals: Approvals,
) -> Result<Admitted, Refusal> {
    let task_count = payload.tasks.len();
    let requested = match phase {
        Phase::Prefill => i64::from(policy.max_concurrency),
        Phase::Run => requested_concurrency(policy, request_concurrency, payload)?,
    };
    fits(policy, phase, task_count, requested, approvals)?;
    // Between 1 and the system's limit by now.
    let requested_concurrency = u32::try_from(requested).unwrap_or(policy.system.max_concurrency);
    let task_count = u32::try_from(task_count).unwrap_or(u32::MAX);
    Ok(Admitted {
        requested_concurrency,
        effective_concurrency: requested_concurrency.min(policy.system.max_concurrency).min(task_count),
        configured_max_concurrency: policy.max_concurrency,
        configured_max_tasks: policy.max_tasks,
    })
}

/// Admits or refuses a retry of `task_count` tasks of a batch that asked for `requested_concurrency`: the
/// limits of now apply, as they would to a batch of so many tasks.
pub fn admit_retry(
    policy: &Policy,
    task_count: u32,
    requested_concurrency: u32,
    approvals: Approvals,
) -> Result<(), Refusal> {
    let task_count = usize::try_from(task_count).unwrap_or(usize::MAX);
    fits(policy, Phase::Run, task_count, requested_concurrency.into(), approvals)
}

fn fits(
    policy: &Policy,
    phase: Phase,
    task_count: usize,
    requested_concurrency: i64,
    approvals: Approvals,
) -> Result<(), Refusal> {
    let configured_max_concurrency = policy.max_concurrency;
    let configured_max_tasks = policy.max_tasks;
    let system_max_concurrency = policy.system.max_concurrency;
    let system_max_tasks = policy.system.max_tasks;
    let over = |limit: u32| u32::try_from(task_count).map_or(true, |count| count > limit);
    if over(system_max_tasks) {
        return Err(Refusal::TaskLimitExceeded { phase, task_count, configured_max_tasks, system_max_tasks });
    }
    if over(configured_max_tasks) && !approvals.task_count {
        return Err(Refusal::TaskCountRequiresApproval {
            phase,
            task_count,
            configured_max_tasks,
            system_max_tasks,
        });
    }
    if requested_concurrency > i64::from(system_max_concurrency) {
        return Err(Refusal::ConcurrencyLimitExceeded {
            requested_concurrency,
            configured_max_concurrency,
            system_max_concurrency,
        });
    }
    if requested_concurrency > i64::from(configured_max_concurrency) && !approvals.concurrency {
        return Err(Refusal::ConcurrencyRequiresApproval {
            requested_concurrency,
            configured_max_concurrency,
            system_max_concurrency,
        });
    }
    Ok(())
}

fn requested_concurrency(
    policy: &Policy,
    request_concurrency: Option<i32>,
    payload: &Payload,
) -> Result<i64, Refusal> {
    let given = request_concurrency.map(|own| Integer::Value(own.into())).or(payload.concurrency);
    match given {
        None => Ok(policy.max_concurrency.into()),
        Some(Integer::Value(value @ 1..)) => Ok(value),
        Some(Integer::Value(value)) => Err(Refusal::field(
            "concurrency",
            format!("is {value}; give a whole number from 1, or leave it out for the configured limit"),
        )),
        Some(Integer::Unreadable) => Err(Refusal::field(
            "concurrency",
            "is no whole number; give one from 1, or leave it out for the configured limit",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::options::BatchOptions;
    use crate::core::payload::{Defaults, TaskRequest};
    use crate::core::policy::SystemLimits;

    const APPROVED: Approvals = Approvals { concurrency: true, task_count: true };

    fn payload(tasks: usize, concurrency: Option<Integer>) -> Payload {
        Payload { concurrency, options: BatchOptions::default(), tasks: vec![TaskRequest::default(); tasks] }
    }

    fn policy() -> Policy {
        Policy::fallback(SystemLimits::default())
    }

    #[test]
    fn a_huge_concurrency_is_refused_by_its_own_number() {
        let batch = payload(2, Some(Integer::Value(i64::MAX)));
        let refusal = admit(&policy(), Phase::Run, None, &batch, APPROVED).unwrap_err();
        assert_eq!(refusal.code(), "BATCH_CONCURRENCY_LIMIT_EXCEEDED");
        assert_eq!(refusal.metadata()[0], ("requested_concurrency", i64::MAX.to_string()));
    }

    #[test]
    fn the_requests_own_concurrency_hides_an_unreadable_one() {
        let batch = payload(2, Some(Integer::Unreadable));
        assert_eq!(admit(&policy(), Phase::Run, Some(1), &batch, APPROVED).unwrap().requested_concurrency, 1);
        assert_eq!(
            admit(&policy(), Phase::Run, None, &batch, APPROVED).unwrap_err().code(),
            "INVALID_ARGUMENT"
        );
        assert!(admit(&policy(), Phase::Prefill, None, &batch, APPROVED).is_ok());
    }

    #[test]
    fn a_request_below_one_is_invalid_before_any_limit() {
        for own in [0, -1, i32::MIN] {
            let refusal = admit(&policy(), Phase::Run, Some(own), &payload(11, None), APPROVED).unwrap_err();
            let Refusal::Invalid(violations) = refusal else { panic!("{refusal:?}") };
            assert_eq!(violations[0].field, "concurrency");
        }
    }

    #[test]
    fn each_approval_lifts_its_own_limit_only() {
        let batch = payload(6, Some(Integer::Value(4)));
        let code = |approvals| {
            admit(&policy(), Phase::Run, None, &batch, approvals).map_err(|refusal| refusal.code()).err()
        };
        let only_concurrency = Approvals { concurrency: true, task_count: false };
        let only_tasks = Approvals { concurrency: false, task_count: true };
        assert_eq!(code(only_concurrency), Some("BATCH_TASK_COUNT_REQUIRES_APPROVAL"));
        assert_eq!(code(only_tasks), Some("BATCH_CONCURRENCY_REQUIRES_APPROVAL"));
        assert_eq!(code(APPROVED), None);
    }

    #[test]
    fn refusals_say_the_way_out() {
        let message = |tasks, concurrency| {
            admit(&policy(), Phase::Run, Some(concurrency), &payload(tasks, None), Approvals::default())
                .unwrap_err()
                .to_string()
        };
        assert!(message(11, 1).contains("split"));
        assert!(message(6, 1).contains("task_count_approved"));
        assert!(message(1, 6).contains("at most 5"));
        assert!(message(1, 4).contains("concurrency_approved"));
    }

    #[test]
    fn a_typed_request_is_admitted_like_a_json_one() {
        let tasks = vec![crate::core::payload::TaskInput::default(); 2];
        let batch = crate::core::payload::from_tasks(tasks, &Defaults::default()).unwrap();
        let admitted = admit(&policy(), Phase::Run, None, &batch, Approvals::default()).unwrap();
        assert_eq!((admitted.requested_concurrency, admitted.effective_concurrency), (3, 2));
    }
}
