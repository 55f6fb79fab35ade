//! Generated steps: each becomes one event, made out of what is there at the moment, so that most of them mean
//! something: right, late, twice, or of somebody else.

use muster_coordinator::core::{admission::Approvals, event::*, model::*, options::*, policy::*};
use muster_proto::{AttemptId, AttemptNo, LifeId, TaskIndex};
use proptest::prelude::*;

use crate::{
    model::{Model, id_of},
    model_compare::{Pair, Told},
    world::{LIFE, batch, submission, worker},
};

const WORKERS: u8 = 3;
const MAX_BATCHES: u64 = 4;

/// A call's `request_id` (0: none) and whether its content is another than usual.
pub(crate) type Call = (u8, bool);

/// Which attempt: the n-th of those that a worker holds, of another's, of all that ever were, of those that never
/// were, of another life.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Own(u8),
    Others(u8),
    Any(u8),
    Never(u8),
    OtherLife(u8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Boot {
    Same,
    Another,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Said {
    Heartbeat,
    Accepted,
    Started(u8),
    Returned,
    Ended { how: u8, stop_sent: bool, cause: u8, log_size: u8, no_room: bool },
    Draining,
    Leaving,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Submit {
        tasks: u32,
        limit: u32,
        key: bool,
        again: bool,
        /// What of the options is set, as bits.
        options: u8,
        call: Call,
    },
    /// Tasks as bits; none: all.
    Cancel {
        batch: u8,
        tasks: u8,
        now: bool,
        call: Call,
    },
    Retry {
        batch: u8,
        tasks: u8,
        key: bool,
        call: Call,
    },
    Release {
        batch: u8,
        call: Call,
    },
    Steer {
        name: u8,
        drain: bool,
    },
    Workers,
    /// `number`: how far the connection's number is from the newest. `lists`: for each held attempt two bits, how
    /// it is listed. `past`: one that is listed besides.
    Hello {
        worker: u8,
        slots: u32,
        boot: Boot,
        name: u8,
        number: i8,
        lists: u16,
        past: Option<(Which, u8)>,
        draining: bool,
    },
    Says {
        worker: u8,
        which: Which,
        said: Said,
        stale: bool,
    },
    /// The worker is cut off; one that is away comes back, as if nothing had happened or as its machine allows.
    Turn {
        worker: u8,
        boot: Boot,
        lists: u16,
    },
    Store {
        worker: u8,
        which: Which,
        bytes: u8,
    },
    Unsendable {
        worker: u8,
        which: Which,
    },
    Pass(u64),
    Restart {
        hold: bool,
    },
}

fn call() -> impl Strategy<Value = Call> {
    (prop_oneof![3 => Just(0u8), 1 => 1..5u8], prop::bool::weighted(0.2))
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![
        24 => (0..4u8).prop_map(Which::Own),
        2 => (0..8u8).prop_map(Which::Others),
        5 => any::<u8>().prop_map(Which::Any),
        1 => (0..8u8).prop_map(Which::Never),
        1 => (0..8u8).prop_map(Which::OtherLife),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        1 => Just(Said::Heartbeat),
        10 => Just(Said::Accepted),
        6 => (1..3u8).prop_map(Said::Started),
        3 => Just(Said::Returned),
        14 => (
            prop_oneof![3 => 0..12u8, 1 => Just(9u8)], any::<bool>(), prop_oneof![2 => Just(0u8), 1 => 1..5u8],
            0..3u8, prop::bool::weighted(0.3),
        ).prop_map(|(how, stop_sent, cause, log_size, no_room)| {
            Said::Ended { how, stop_sent, cause, log_size, no_room }
        }),
        1 => Just(Said::Draining),
        1 => Just(Said::Leaving),
    ]
}

fn boot(same: u32) -> impl Strategy<Value = Boot> {
    prop_oneof![same => Just(Boot::Same), 1 => Just(Boot::Another)]
}

fn hello() -> impl Strategy<Value = Step> {
    let name = prop_oneof![12 => Just(0u8), 1 => 1..4u8];
    let number = prop_oneof![8 => Just(1i8), 1 => -1..1i8];
    let lists = prop_oneof![2 => Just(0u16), 1 => any::<u16>()];
    let past = prop::option::weighted(0.3, (which(), 0..3u8));
    let draining = prop::bool::weighted(0.05);
    (0..WORKERS, 0..4u32, boot(5), name, number, lists, past, draining).prop_map(
        |(worker, slots, boot, name, number, lists, past, draining)| Step::Hello {
            worker,
            slots,
            boot,
            name,
            number,
            lists,
            past,
            draining,
        },
    )
}

fn submit(options: impl Strategy<Value = u8>) -> impl Strategy<Value = Step> {
    (1..5u32, 1..4u32, any::<bool>(), prop::bool::weighted(0.1), options, call()).prop_map(
        |(tasks, limit, key, again, options, call)| Step::Submit { tasks, limit, key, again, options, call },
    )
}

fn cancel() -> impl Strategy<Value = Step> {
    (0..5u8, 0..32u8, any::<bool>(), call()).prop_map(|(batch, tasks, now, call)| Step::Cancel {
        batch,
        tasks: tasks & 0x13,
        now,
        call,
    })
}

fn retry() -> impl Strategy<Value = Step> {
    (0..5u8, 0..32u8, any::<bool>(), call()).prop_map(|(batch, tasks, key, call)| Step::Retry {
        batch,
        tasks: tasks & 0x11,
        key,
        call,
    })
}

fn release() -> impl Strategy<Value = Step> {
    (0..5u8, call()).prop_map(|(batch, call)| Step::Release { batch, call })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let own = 0..WORKERS;
    prop_oneof![
        6 => submit(prop_oneof![1 => Just(0u8), 2 => any::<u8>()]),
        7 => cancel(),
        3 => retry(),
        2 => release(),
        2 => (0..5u8, prop::bool::weighted(0.3)).prop_map(|(name, drain)| Step::Steer { name, drain }),
        1 => Just(Step::Workers),
        9 => hello(),
        50 => (own.clone(), which(), said(), prop::bool::weighted(0.03))
            .prop_map(|(worker, which, said, stale)| Step::Says { worker, which, said, stale }),
        14 => (own.clone(), boot(1), prop_oneof![Just(0u16), any::<u16>()])
            .prop_map(|(worker, boot, lists)| Step::Turn { worker, boot, lists }),
        9 => (own.clone(), which(), 0..4u8)
            .prop_map(|(worker, which, bytes)| Step::Store { worker, which, bytes }),
        1 => (own, which()).prop_map(|(worker, which)| Step::Unsendable { worker, which }),
        6 => prop_oneof![
            6 => 0..2_000u64,
            3 => 9_000..12_000u64,
            3 => 90_000..120_000u64,
            1 => Just(86_500_000u64),
        ].prop_map(Step::Pass),
        2 => prop::bool::weighted(0.3).prop_map(|hold| Step::Restart { hold }),
    ]
}

/// Of a time in which next to no worker is there: what waits does so for long.
pub(crate) fn lonely_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // There is a limit to that.
        3 => submit(any::<u8>().prop_map(|bits| bits | 0x20)),
        3 => cancel(),
        5 => retry(),
        4 => release(),
        2 => (0..WORKERS, boot(5)).prop_map(|(worker, boot)| Step::Turn { worker, boot, lists: 0 }),
        2 => (0..WORKERS, (0..4u8).prop_map(Which::Own), said())
            .prop_map(|(worker, which, said)| Step::Says { worker, which, said, stale: false }),
        8 => (0..110_000u64).prop_map(Step::Pass),
        5 => prop::bool::weighted(0.4).prop_map(|hold| Step::Restart { hold }),
    ]
}

fn request((id, other): Call) -> Option<Request> {
    (id > 0).then(|| Request { id: format!("r{id}"), digest: [u8::from(other); 32] })
}

/// The set bits as task numbers; one beyond the usual is there too.
fn tasks(bits: u8) -> Vec<TaskIndex> {
    (0..5).filter(|bit| bits >> bit & 1 == 1).map(|bit| TaskIndex(bit + 1)).collect()
}

fn nth<T: Copy>(of: &[T], n: u8) -> Option<T> {
    of.get(usize::from(n).checked_rem(of.len())?).copied()
}

impl Pair {
    /// Carries one step out on both, as one event.
    pub(crate) fn take(&mut self, step: Step) -> Told {
        let reply = self.world.reply_id();
        let event = match step {
            Step::Submit { tasks, limit, key, again, options: bits, call } => {
                let there = self.model.batches.len() as u64;
                let full = there >= MAX_BATCHES;
                let number = if (again || full) && there > 0 { there } else { there + 1 };
                let secret = key.then(|| vec![1]);
                let mut submit =
                    Submit { secret, request: request(call), ..submission(number, tasks, limit.min(tasks)) };
                submit.head.options = options(bits);
                submit.head.create_ms = self.world.now().unix_ms;
                Event::Submit(reply, Box::new(submit))
            }
            Step::Cancel { batch: number, tasks: bits, now, call } => {
                let reason = "why not".into();
                let batch = batch(number.into());
                let cancel =
                    Cancel { batch, tasks: tasks(bits), reason, immediate: now, request: request(call) };
                Event::Cancel(reply, cancel)
            }
            Step::Retry { batch: number, tasks: bits, key, call } => {
                let system = SystemLimits { max_concurrency: 100, max_tasks: 100 };
                let policy = Policy { max_concurrency: 100, max_tasks: 100, system };
                let limits = RetryLimits { policy, approvals: Approvals::default() };
                let (batch, secret) = (batch(number.into()), key.then(|| vec![2]));
                let retry = Retry { batch, tasks: tasks(bits), secret, limits, request: request(call) };
                Event::Retry(reply, Box::new(retry))
            }
            Step::Release { batch: number, call } => {
                Event::Release(reply, Release { batch: batch(number.into()), request: request(call) })
            }
            Step::Steer { name, drain } => {
                let steer = if drain { Steer::Drain } else { Steer::Resume };
                Event::Steer(reply, format!("w{name}"), steer)
            }
            Step::Workers => Event::Workers(reply),
            Step::Hello { .. } => self.hello_of(reply, &step),
            Step::Says { worker: number, which, said, stale } => {
                let instance = worker(number.into()).instance;
                let up = self.model.workers.get(&instance).and_then(|worker| worker.session());
                match (up, stale) {
                    (Some(session), false) => {
                        Event::Worker(SessionId(session), self.words(number, which, said))
                    }
                    (_, true) => Event::Worker(SessionId(1), self.words(number, which, said)),
                    (None, false) => {
                        let boot = if matches!(which, Which::Own(3)) { Boot::Another } else { Boot::Same };
                        self.hello_of(reply, &Step::usual_hello(number, boot, 0))
                    }
                }
            }
            Step::Turn { worker: number, boot, lists } => {
                let instance = worker(number.into()).instance;
                match self.model.workers.get(&instance).and_then(|worker| worker.session()) {
                    Some(session) => Event::Gone(SessionId(session)),
                    None => self.hello_of(reply, &Step::usual_hello(number, boot, lists)),
                }
            }
            Step::Store { worker, which, bytes } => match self.attempt(worker, which) {
                None => Event::Tick,
                Some(id) => {
                    let stored = self.world.log_stored.entry(id).or_default();
                    *stored = u64::from(bytes).max(*stored);
                    self.model.logs.insert(id, *stored);
                    Event::LogStored(id, *stored)
                }
            },
            Step::Unsendable { worker, which } => match self.attempt(worker, which) {
                None => Event::Tick,
                // Of our own offers, hence never of another life.
                Some(id) => Event::Unsendable(
                    AttemptId { life: LIFE, ..id },
                    FailureReason::SecretUnavailable,
                    "no key".into(),
                ),
            },
            Step::Pass(ms) => {
                self.world.now_ms += ms;
                Event::Tick
            }
            Step::Restart { hold } => {
                self.restart(hold)?;
                Event::Tick
            }
        };
        self.tell(event)
    }

    fn attempt(&self, worker_no: u8, which: Which) -> Option<AttemptId> {
        let instance = worker(worker_no.into()).instance;
        let ids = |own: bool| -> Vec<_> {
            let active = self.model.active().into_iter();
            active.filter(|(_, one)| (one.worker.instance == instance) == own).map(|(id, _)| id).collect()
        };
        match which {
            Which::Own(n) => nth(&ids(true), n).or_else(|| nth(&ever(&self.model), n)),
            Which::Others(n) => nth(&ids(false), n),
            Which::Any(n) => nth(&ever(&self.model), n),
            Which::Never(n) => {
                let id = nth(&ever(&self.model), n).unwrap_or_else(|| id_of(batch(9), 0, 1));
                Some(AttemptId { attempt: AttemptNo(id.attempt.0 + 7), ..id })
            }
            Which::OtherLife(n) => nth(&ids(true), n)
                .or_else(|| nth(&ever(&self.model), n))
                .map(|id| AttemptId { life: LifeId(LIFE.0 + 1), ..id }),
        }
    }

    fn words(&self, worker: u8, which: Which, said: Said) -> FromWorker {
        let Some(id) = self.attempt(worker, which) else { return FromWorker::Heartbeat(Vec::new()) };
        match said {
            Said::Heartbeat => FromWorker::Heartbeat(Vec::new()),
            Said::Accepted => FromWorker::Accepted(id),
            Said::Started(pid) => {
                let output_path = if pid == 1 { "/o".into() } else { String::new() };
                FromWorker::Started(id, Started { pid: pid.into(), output_path })
            }
            Said::Returned => FromWorker::Returned(id),
            Said::Ended { how, stop_sent, cause, log_size, no_room } => {
                let causes =
                    [StopCause::Requested, StopCause::TimeLimit, StopCause::CutOff, StopCause::WorkerStopped];
                let stop_cause = usize::from(cause).checked_sub(1).map(|no| causes[no]);
                let result = Ended { stop_cause, ..result(how, stop_sent, log_size, no_room) };
                FromWorker::Ended(id, Box::new(result))
            }
            Said::Draining => FromWorker::Draining,
            Said::Leaving => FromWorker::Leaving,
        }
    }

    fn hello_of(&self, reply: ReplyId, step: &Step) -> Event {
        let Step::Hello { worker: number, slots, boot, name, number: ahead, lists, past, draining } = *step
        else {
            return Event::Tick;
        };
        let mut who = worker(number.into());
        if name > 0 {
            who.name = format!("w{}", name - 1);
        }
        let known = self.model.workers.get(&who.instance);
        let held = self.model.active().into_iter().filter(|(_, one)| one.worker.instance == who.instance);
        let held = held.enumerate().filter_map(|(n, (id, one))| {
            let is = match (&one.result, one.pid) {
                (Some(_), _) => HeldPhase::Ended,
                (None, 0) => HeldPhase::Accepted,
                _ => HeldPhase::Running,
            };
            match lists >> (2 * (n % 8)) & 3 {
                // It was offered, and nothing came back: either it came there or not.
                0 => Some((id, is)),
                1 => None,
                2 => Some((id, HeldPhase::Accepted)),
                _ => Some((id, HeldPhase::Ended)),
            }
        });
        let mut held: Vec<_> = held.collect();
        if let Some((id, phase)) = past.and_then(|(which, phase)| Some((self.attempt(number, which)?, phase)))
        {
            let phase = [HeldPhase::Accepted, HeldPhase::Running, HeldPhase::Ended][usize::from(phase % 3)];
            held.retain(|(other, _)| *other != id);
            held.push((id, phase));
        }
        let connection = known.map_or(0, |known| known.connection);
        let hello = Hello {
            boot_id: match (known, boot) {
                (Some(known), Boot::Same) => known.boot.clone(),
                (None, Boot::Same) => "boot".into(),
                (_, Boot::Another) => format!("boot {}", self.events),
            },
            slots,
            labels: std::collections::BTreeMap::new(),
            version: "1".into(),
            held,
            draining,
            connection: connection.saturating_add_signed(ahead.into()),
            worker: who,
        };
        // No session's number is used again; 1 is nobody's.
        Event::Hello(reply, SessionId(self.events as u64 + 2), Box::new(hello))
    }
}

impl Step {
    /// A worker dials in as workers do.
    fn usual_hello(worker: u8, boot: Boot, lists: u16) -> Self {
        let (slots, name, number, past, draining) = (3, 0, 1, None, false);
        Self::Hello { worker, slots, boot, name, number, lists, past, draining }
    }
}

/// Every attempt that ever was.
fn ever(model: &Model) -> Vec<AttemptId> {
    let mut ids = Vec::new();
    for (id, batch) in &model.batches {
        for (index, task) in batch.tasks.iter().enumerate() {
            ids.extend((1..=task.attempts.len()).map(|no| id_of(*id, index, no)));
        }
    }
    ids
}

fn result(how: u8, stop_sent: bool, log_size: u8, no_room: bool) -> Ended {
    let ran = how < 8;
    Ended {
        outcome: match how {
            0..4 => Outcome::Exited(0),
            4..6 => Outcome::Exited(3),
            6..8 => Outcome::Signalled(9),
            8 => Outcome::LaunchFailed { task_fault: true, message: "too long".into() },
            9 => Outcome::LaunchFailed { task_fault: false, message: "no such file".into() },
            10 => Outcome::Crashed("its runner died".into()),
            _ => Outcome::OutputRefused("outside".into()),
        },
        stop_sent,
        stop_cause: None,
        log_size: if ran { log_size.into() } else { 0 },
        log_discarded: 0,
        output_failed: (ran && no_room).then(|| "no room".into()),
        output_path: if how.is_multiple_of(2) { "/out".into() } else { String::new() },
        pid: if ran { 7 } else { 0 },
    }
}

/// How a batch is carried out, by bits.
fn options(bits: u8) -> BatchOptions {
    let bit = |no: u8| bits >> no & 1 == 1;
    let on: &[RetryOn] = if bit(1) {
        &[RetryOn::ExitCode, RetryOn::Signal, RetryOn::TimedOut, RetryOn::WorkerCrashed]
    } else {
        &[RetryOn::Code(3), RetryOn::WorkerCrashed]
    };
    let policy = RetryPolicy {
        max_attempts: if bit(2) { 2 } else { 4 },
        on: on.iter().copied().collect(),
        backoff_ms: if bit(3) { 0 } else { 600 },
        max_backoff_ms: 1_500,
    };
    let never = RetryPolicy { max_attempts: 1, ..policy.clone() };
    let tasks = [(Some(7_000), None), (None, Some(&never)), (None, None), (None, Some(&policy))];
    BatchOptions {
        retry: bit(0).then_some(policy.clone()),
        max_failures: bit(4).then_some(1 + u32::from(bit(2))),
        queue_time_limit_ms: bit(5).then_some(if bit(2) { 1_500 } else { 150_000 }),
        cancel_grace_ms: bit(6).then_some(3_000),
        time_limit_ms: bit(6).then_some(60_000),
        own: if bit(7) { own_options(tasks.into_iter()) } else { Vec::new() },
        ..BatchOptions::default()
    }
}
