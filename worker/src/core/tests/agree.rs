//! Generated sequences of events for the dispatcher and the model, which must agree after each event. Together they
//! reach every row of the worker's tables.
//!
//! `MUSTER_SEQUENCES` says how many (100,000 where it matters), `MUSTER_SEED` where they begin: what a failure says
//! comes out again with it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::super::coordinator::Session;
use super::model::{Is, Model};
use super::*;

/// Without a word of anyone: what a debug build does in seconds.
const SEQUENCES: u64 = 2_000;
/// So many reach every row, whatever their seeds; fewer can miss one that is rare.
const REACH_ALL: u64 = 20_000;
/// Sequences that come out of one seed.
const A_SEED: u64 = 250;
/// Each step is one event at least.
const EVENTS: std::ops::Range<usize> = 50..90;
const SLOTS: usize = 2;

/// Which attempt: one of four places, each of which moves on to a new task when its last is gone; or the one before.
#[derive(Clone, Copy, Debug)]
struct Which {
    place: usize,
    before: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// What comes next, where all goes well.
    Next(Which),
    /// 0: its output path is not allowed; 1: it has a limit of time.
    Offer(Which, u8),
    /// While the runner does not answer for so long.
    OfferMeanwhile(Which, u64),
    Stop(Which, u32),
    Acknowledge(Which),
    Dial,
    SessionEnds,
    /// Two bits for each held attempt: its verdict; how much of its output is stored; whether one is left out.
    Welcome(u8, u64, bool),
    Beat,
    /// Of a session that is over.
    Stale(Which),
    Goodbye(bool),
    RunnerDown,
    RunnerHangs(bool),
    /// A bit for each attempt that the runner might list: whether it does.
    RunnerUp(u8, bool),
    Started(Which),
    StartFailed(Which),
    Refused(Which),
    Prints(Which, u64),
    Ends(Which, u8, u64),
    Unreadable(Which, u64),
    Wait(u64),
    Drain,
    StopAll,
    /// The half is killed, and another one started over the same runner.
    KillHalf,
    KillRunner,
    KillMachine,
}

fn step() -> impl Strategy<Value = Step> {
    let which =
        || (0..4_usize, prop::bool::weighted(0.1)).prop_map(|(place, before)| Which { place, before });
    prop_oneof![
        60 => which().prop_map(Step::Next),
        6 => (which(), 0..5_u8).prop_map(|(which, how)| Step::Offer(which, how)),
        4 => (which(), 3_000..5_000_u64).prop_map(|(which, ms)| Step::OfferMeanwhile(which, ms)),
        8 => (which(), 0..3_u32).prop_map(|(which, grace)| Step::Stop(which, grace * 5_000)),
        4 => which().prop_map(Step::Acknowledge),
        2 => Just(Step::Dial),
        2 => Just(Step::SessionEnds),
        5 => (any::<u8>(), 0..9_u64, any::<bool>()).prop_map(|(all, stored, one)| Step::Welcome(all, stored, one)),
        1 => Just(Step::Beat),
        1 => which().prop_map(Step::Stale),
        1 => prop::bool::weighted(0.1).prop_map(Step::Goodbye),
        3 => Just(Step::RunnerDown),
        4 => any::<bool>().prop_map(Step::RunnerHangs),
        4 => (any::<u8>(), prop::bool::weighted(0.3)).prop_map(|(bits, old)| Step::RunnerUp(bits, old)),
        3 => which().prop_map(Step::Started),
        3 => which().prop_map(Step::StartFailed),
        3 => which().prop_map(Step::Refused),
        8 => (which(), 0..100_000_u64).prop_map(|(which, size)| Step::Prints(which, size)),
        4 => (which(), 0..6_u8, 0..90_000_u64).prop_map(|(which, how, size)| Step::Ends(which, how, size)),
        1 => (which(), 0..9_u64).prop_map(|(which, from)| Step::Unreadable(which, from)),
        8 => prop_oneof![3 => 0..100_u64, 1 => 0..20_000_u64].prop_map(Step::Wait),
        1 => prop::bool::weighted(0.7).prop_map(|drain| if drain { Step::Drain } else { Step::StopAll }),
        1 => prop_oneof![Just(Step::KillHalf), Just(Step::KillRunner), Just(Step::KillMachine)],
    ]
}

struct Pair {
    script: Script,
    model: Model,
    /// How many tasks each place has had.
    had: [u32; 4],
    reached: BTreeSet<&'static str>,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self { script: dispatcher(0), model: model(), had: [0; 4], reached: BTreeSet::new() };
        pair.restart(|_| false).unwrap();
        pair
    }

    /// Both, anew, over what the runner has: programs that ran have ended meanwhile, or not.
    fn restart(&mut self, runs: impl Fn(AttemptId) -> bool) -> Result<(), String> {
        let listed = self.listed(0xff, runs);
        self.reached.append(&mut self.model.reached);
        self.script = dispatcher(self.script.ms);
        self.model = model();
        self.tell(hello_of_runner(listed))?;
        self.dial()?;
        self.tell(self.welcome(0, 0, false))
    }

    fn dial(&mut self) -> Result<(), String> {
        self.script.session += 1;
        self.tell(Event::Dialed(self.script.session))
    }

    fn id(&self, which: Which) -> AttemptId {
        let Which { place, before } = which;
        let had = self.had[place].saturating_sub(u32::from(before));
        id(1 + place as u32 + 4 * had)
    }

    /// What the runner would list of what runs or has ended, where `bits` says so: as it is, or ended as lost.
    fn listed(&self, bits: u8, runs: impl Fn(AttemptId) -> bool) -> Vec<protocol::Held> {
        let mut listed = Vec::new();
        for (no, (id, one)) in self.model.all.iter().enumerate() {
            let began = matches!(one.is, Is::Running | Is::Stopping(_) | Is::Starting(..));
            if bits >> (no % 8) & 1 == 0 || !(began || matches!(one.is, Is::Ended(_))) {
                continue;
            }
            listed.push(if began && runs(*id) {
                protocol::Held::Running { attempt: to_key(*id), pid: 5, start_ms: 1, size: 9 }
            } else {
                let lost = began;
                let exit_code = (!lost).then_some(0);
                protocol::Held::Ended(protocol::Ended { lost, exit_code, ..runner_ended(id.task.0, 9) })
            });
        }
        listed
    }

    fn welcome(&self, bits: u8, stored: u64, left_out: bool) -> Event {
        let held =
            self.model.all.iter().filter(|(_, one)| one.is_here() && !matches!(one.is, Is::Refusing(_)));
        let verdict = |(no, (id, _)): (usize, (&AttemptId, _))| HeldVerdict {
            attempt: *id,
            verdict: [Verdict::GoOn, Verdict::Report, Verdict::Stop, Verdict::Forget]
                [usize::from(bits >> (2 * (no % 4)) & 3)],
            log_offset: stored,
        };
        let verdicts = held.enumerate().map(verdict).skip(usize::from(left_out)).collect();
        self.said(FromCoordinator::Welcome { heartbeat_ms: HEARTBEAT, silence_ms: SILENCE, verdicts })
    }

    fn said(&self, message: FromCoordinator) -> Event {
        Event::Coordinator(self.script.session, message)
    }

    /// Tells both, and compares.
    fn tell(&mut self, event: Event) -> Result<(), String> {
        let now = Now { ms: self.script.ms, unix_ms: 77 };
        self.model.handle(now, &event);
        let mut found = self.script.event(event);
        let mut expected = self.model.out.clone();
        in_order(&mut found);
        in_order(&mut expected);
        if found != expected {
            return Err(format!("effects\n   found {found:?}\nexpected {expected:?}"));
        }
        let here = self.model.all.values().filter(|one| one.is_here()).count();
        let held = self.script.dispatcher.held_count();
        if here != held {
            return Err(format!("{held} attempts are held, not {here}"));
        }
        if found.iter().any(|effect| matches!(effect, Effect::Exit(_))) {
            // Another worker process takes the work directory over.
            return self.restart(|_| true);
        }
        for place in 0..4 {
            if matches!(
                self.model.is(self.id(Which { place, before: false })),
                Some(Is::Refused | Is::Stored)
            ) {
                self.had[place] += 1;
            }
        }
        Ok(())
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        let event = match step {
            Step::Next(which) => return self.next(self.id(which)),
            Step::Offer(which, how) => {
                let path = if how == 0 { "../x" } else { "" };
                let offer = offer(self.id(which).task.0, path);
                let time_limit_ms = (how == 1).then_some(60_000);
                self.said(FromCoordinator::Offer(Offer { time_limit_ms, ..offer }))
            }
            Step::OfferMeanwhile(which, ms) => {
                self.tell(Event::RunnerSilent)?;
                self.tell(self.said(FromCoordinator::Offer(offer(self.id(which).task.0, ""))))?;
                self.script.ms += ms;
                Event::Tick
            }
            Step::Stop(which, grace_ms) => {
                self.said(FromCoordinator::Stop { attempt: self.id(which), grace_ms })
            }
            Step::Acknowledge(which) => self.said(FromCoordinator::Acknowledged(self.id(which))),
            Step::Dial => return self.dial(),
            Step::SessionEnds => Event::SessionEnded(self.script.session),
            Step::Welcome(bits, stored, left_out) => {
                self.dial()?;
                self.welcome(bits, stored, left_out)
            }
            Step::Beat => self.said(FromCoordinator::Heartbeat),
            Step::Stale(which) => {
                let offer = FromCoordinator::Offer(offer(self.id(which).task.0, ""));
                Event::Coordinator(self.script.session - 1, offer)
            }
            Step::Goodbye(stay_away) => {
                self.said(FromCoordinator::Goodbye { reason: "so".into(), stay_away })
            }
            Step::RunnerDown => Event::RunnerDown,
            Step::RunnerHangs(true) => Event::RunnerSilent,
            Step::RunnerHangs(false) => Event::RunnerAnswers,
            Step::RunnerUp(bits, old) => {
                let version = if old { protocol::OLDEST } else { protocol::VERSION };
                hello_in(version, self.listed(bits, |_| true))
            }
            Step::Started(which) => {
                let attempt = to_key(self.id(which));
                Event::Runner(FromRunner::Started { attempt, pid: 5, start_ms: 1 })
            }
            Step::StartFailed(which) => {
                let (attempt, message) = (to_key(self.id(which)), "no such file".into());
                Event::Runner(FromRunner::StartFailed { attempt, errno: 2, message, for_task: false })
            }
            Step::Refused(which) => Event::Runner(FromRunner::Refused { attempt: to_key(self.id(which)) }),
            Step::Prints(which, size) => {
                Event::Runner(FromRunner::Output { attempt: to_key(self.id(which)), size })
            }
            Step::Ends(which, how, size) => ends(self.id(which), how, size),
            Step::Unreadable(which, from) => {
                Event::OutputUnreadable { attempt: self.id(which), from, message: "no".into() }
            }
            Step::Wait(ms) => {
                self.script.ms += ms;
                Event::Tick
            }
            Step::Drain => Event::Drain,
            Step::StopAll => Event::Stop,
            Step::KillHalf => {
                self.tell(Event::Leave)?;
                return Ok(());
            }
            Step::KillRunner => {
                self.tell(Event::RunnerDown)?;
                hello_of_runner(self.listed(0xff, |_| false))
            }
            Step::KillMachine => {
                return self.restart(|_| false);
            }
        };
        self.tell(event)
    }

    /// What would come next for an attempt, were all well.
    fn next(&mut self, id: AttemptId) -> Result<(), String> {
        if self.script.dispatcher.runner != RunnerLink::Up {
            return self.tell(hello_of_runner(self.listed(0xff, |_| true)));
        }
        match self.script.dispatcher.session {
            Session::Down => return self.dial(),
            Session::Greeting { .. } => return self.tell(self.welcome(0, 4, false)),
            Session::Up { .. } => {}
        }
        let attempt = to_key(id);
        let event = match self.model.is(id) {
            None | Some(Is::Refused | Is::Stored) => self.said(FromCoordinator::Offer(offer(id.task.0, ""))),
            Some(Is::Starting(..)) => Event::Runner(FromRunner::Started { attempt, pid: 5, start_ms: 1 }),
            Some(Is::Refusing(_)) => Event::Runner(FromRunner::Refused { attempt }),
            Some(Is::Running | Is::Stopping(_)) => ends(id, 0, 10),
            Some(Is::Ended(_)) => self.said(FromCoordinator::Acknowledged(id)),
        };
        self.tell(event)
    }
}

fn dispatcher(ms: u64) -> Script {
    Script { dispatcher: Dispatcher::new(plan(), SLOTS as u32), ms, session: 1 }
}

fn model() -> Model {
    Model::new(plan(), SLOTS)
}

fn hello_of_runner(held: Vec<protocol::Held>) -> Event {
    hello_in(protocol::VERSION, held)
}

fn hello_in(version: u32, held: Vec<protocol::Held>) -> Event {
    let (speaks, release, boot_id) = (version, String::new(), "b".into());
    Event::Runner(FromRunner::Hello { version, speaks, release, pid: 1, boot_id, held })
}

fn ends(id: AttemptId, how: u8, size: u64) -> Event {
    let ended = runner_ended(id.task.0, size);
    let ended = match how {
        0 | 1 => ended,
        2 => {
            let stop_cause = Some(protocol::StopCause::TimeLimit);
            protocol::Ended { exit_code: Some(3), stop_sent: true, stop_cause, discarded: 4, ..ended }
        }
        3 => protocol::Ended { exit_code: None, signal: Some(9), ..ended },
        4 => protocol::Ended { exit_code: None, lost: true, ..ended },
        _ => protocol::Ended { exit_code: None, output_failed: Some("no room".into()), ..ended },
    };
    Event::Runner(FromRunner::Ended(ended))
}

/// Whose output is pushed first of those that have waited equally long is left open.
fn in_order(effects: &mut [Effect]) {
    let push =
        |effect: &Effect| if let Effect::Push { attempt, .. } = effect { Some(*attempt) } else { None };
    for group in effects.chunk_by_mut(|a, b| push(a).is_some() && push(b).is_some()) {
        group.sort_by_key(push);
    }
}

/// Walks a sequence; the rows that were reached on the way.
fn walk(steps: &[Step]) -> Result<BTreeSet<&'static str>, String> {
    let mut pair = Pair::new();
    for (no, step) in steps.iter().enumerate() {
        pair.take(*step).map_err(|why| format!("after step {}, {step:?}: {why}", no + 1))?;
    }
    pair.reached.append(&mut pair.model.reached);
    Ok(pair.reached)
}

/// Leaves out whatever can be left out: a sequence that is generated is never short.
fn shorten(mut steps: Vec<Step>) -> Vec<Step> {
    let fails = |steps: &[Step]| std::panic::catch_unwind(|| walk(steps)).is_ok_and(|walked| walked.is_err());
    while let Some(shorter) = (0..steps.len()).rev().find_map(|left_out| {
        let mut shorter = steps.clone();
        shorter.remove(left_out);
        fails(&shorter).then_some(shorter)
    }) {
        steps = shorter;
    }
    steps
}

fn walk_seed(seed: u64, sequences: u64, reached: &Mutex<BTreeSet<&'static str>>) {
    let config = Config { cases: sequences as u32, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let here = Mutex::new(BTreeSet::new());
    let outcome = runner.run(&prop::collection::vec(step(), EVENTS), |steps| {
        here.lock().unwrap().append(&mut walk(&steps).map_err(TestCaseError::fail)?);
        Ok(())
    });
    match outcome {
        Ok(()) => reached.lock().unwrap().append(&mut here.into_inner().unwrap()),
        Err(TestError::Fail(why, steps)) => {
            let steps = shorten(steps);
            let why = walk(&steps).err().unwrap_or_else(|| why.to_string());
            let steps: Vec<_> = steps.iter().map(|step| format!("    {step:?},")).collect();
            panic!("{why}\nthe shortest such sequence:\n{}\nagain with MUSTER_SEED={seed}", steps.join("\n"));
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[test]
fn dispatcher_and_model_agree_after_every_event_and_reach_every_row() {
    let asked = number("MUSTER_SEQUENCES");
    let sequences = asked.unwrap_or(SEQUENCES);
    // A few are the same ones every time, many are others each time.
    let other = asked.map_or(0, |_| u64::from(std::process::id()) << 32);
    let first = number("MUSTER_SEED").unwrap_or(other);
    let (next, reached) = (AtomicU64::new(0), Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let no = next.fetch_add(1, Relaxed);
                    let Some(left) = sequences.checked_sub(no * A_SEED).filter(|left| *left > 0) else {
                        return;
                    };
                    walk_seed(first + no, A_SEED.min(left), &reached);
                }
            });
        }
    });
    let reached: BTreeSet<_> = reached.into_inner().unwrap().into_iter().map(str::to_owned).collect();
    let documented = super::rows::documented();
    let missing: Vec<_> = documented.difference(&reached).collect();
    assert!(
        sequences < REACH_ALL || missing.is_empty(),
        "no sequence came to {missing:?} (seeds {first} and on)"
    );
    let unknown: Vec<_> = reached.difference(&documented).collect();
    assert!(unknown.is_empty(), "no table has {unknown:?}");
}
