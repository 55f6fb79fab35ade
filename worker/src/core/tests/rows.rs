//! The worker's tables of `docs/protocol.md`, read out of the page, and one small script for each row: an event goes
//! in, exactly these effects come out. A row without a script and a script without a row are red.

use std::collections::BTreeSet;

use super::*;

const PAGE: &str = include_str!("../../../../docs/protocol.md");

/// The ids of the rows about the worker.
pub(super) fn documented() -> BTreeSet<String> {
    let cells = PAGE.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    let ours = |id: &&str| {
        let number = id.strip_prefix('D');
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    cells.map(|(id, _)| id).filter(ours).map(str::to_owned).collect()
}

#[test]
fn every_row_is_walked() {
    let scripts: BTreeSet<_> = SCRIPTS.iter().map(|(row, _)| (*row).to_owned()).collect();
    assert_eq!(SCRIPTS.len(), scripts.len(), "a row is walked twice");
    assert_eq!(documented(), scripts);
    for (row, script) in SCRIPTS {
        // Says which, should it fail.
        eprintln!("row {row}");
        script();
    }
}

/// How far attempt 1 is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Starting,
    ToBeStopped,
    Refusing,
    Running,
    Stopping,
    Ended,
    Refused,
    Stored,
}

use At::{Ended, Refused, Refusing, Running, Starting, Stopping, Stored, ToBeStopped};

/// A worker that is welcome, its attempt 1 that far.
fn at(how_far: At) -> Script {
    let mut script = Script::new();
    if matches!(how_far, Refusing | Refused) {
        script.stop(1, 3_000);
    } else {
        script.offer(1);
    }
    match how_far {
        Starting | Refusing => {}
        ToBeStopped => drop(script.stop(1, 3_000)),
        Refused => drop(script.refused(1)),
        Running => drop(script.started(1, 40)),
        Stopping => {
            script.started(1, 40);
            script.stop(1, 3_000);
        }
        Ended | Stored => {
            script.started(1, 40);
            script.ended(1, 10);
        }
    }
    if how_far == Stored {
        script.acknowledge(1);
    }
    script
}

/// The same, and the coordinator's session has been dialed anew and waits for its welcome.
fn greeting(how_far: At) -> Script {
    let mut script = at(how_far);
    script.event(Event::SessionEnded(script.session));
    script.dial();
    script
}

fn listed(task: u32) -> protocol::Held {
    protocol::Held::Running { attempt: to_key(id(task)), pid: 40, start_ms: 1, size: 0 }
}

fn back(script: &mut Script, held: Vec<protocol::Held>) -> Vec<Effect> {
    script.event(Event::RunnerDown);
    script.runner_hello(held)
}

fn start_failed(script: &mut Script) -> Vec<Effect> {
    let (attempt, message) = (to_key(id(1)), "no such file".into());
    script.event(Event::Runner(FromRunner::StartFailed { attempt, errno: 2, message, for_task: false }))
}

fn sent(report: Report) -> Effect {
    Effect::Send(ToCoordinator::Ended { report, inline: false })
}

fn phase(script: &Script) -> Vec<Held> {
    script.dispatcher.held()
}

fn d1() {
    assert_eq!(Script::new().offer(1), [accepted(1), start(1)]);
}

fn d2() {
    for away in [Event::RunnerDown, Event::RunnerSilent] {
        let script = waiting(away);
        assert_eq!(phase(&script), []);
    }
}

/// Attempt 1 is offered, and waits for the runner.
fn waiting(away: Event) -> Script {
    let mut script = Script::new();
    script.event(away);
    assert_eq!(script.offer(1), []);
    script
}

fn d35() {
    assert_eq!(waiting(Event::RunnerDown).runner_hello(Vec::new()), [accepted(1), start(1)]);
    assert_eq!(waiting(Event::RunnerSilent).event(Event::RunnerAnswers), [accepted(1), start(1)]);
}

fn d36() {
    let mut script = waiting(Event::RunnerDown);
    script.ms = PARK_MS - 1;
    assert_eq!(script.event(Event::Tick), []);
    script.ms = PARK_MS;
    assert_eq!(script.event(Event::Tick), [returned(1)]);
    let drains = waiting(Event::RunnerDown).event(Event::Drain);
    assert_eq!(drains[..2], [Effect::Send(ToCoordinator::Draining), returned(1)]);
}

fn d37() {
    let mut script = waiting(Event::RunnerSilent);
    assert_eq!(script.stop(1, 0), [returned(1)]);
    assert_eq!(script.event(Event::RunnerAnswers), []);
    assert_eq!(script.offer(1), [returned(1)], "and never will be");
}

fn d38() {
    let mut script = waiting(Event::RunnerDown);
    script.event(Event::SessionEnded(script.session));
    assert_eq!(script.dial(), [hello(&[])]);
    assert_eq!(script.runner_hello(Vec::new()), []);
}

fn d3() {
    let mut script = Script::new();
    script.offer(1);
    script.offer(2);
    assert_eq!(script.offer(3), [returned(3)]);
    let mut script = at(Running);
    script.event(Event::Drain);
    assert_eq!(script.offer(3), [returned(3)]);
    assert_eq!(phase(&script), held(&[(1, HeldPhase::Running)]));
    let mut script = Script::new();
    script.runner_hello_in(protocol::OLDEST, Vec::new());
    let limited = Offer { time_limit_ms: Some(60_000), ..offer(1, "") };
    assert_eq!(script.say(FromCoordinator::Offer(limited)), [returned(1)]);
}

fn d4() {
    let effects = Script::new().say(FromCoordinator::Offer(offer(1, "../x")));
    let [one, Effect::Send(ToCoordinator::Ended { report, inline: false })] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((one, report.attempt, report.pid), (&accepted(1), id(1), 0));
    assert!(matches!(report.outcome, Outcome::OutputRefused(_)));
}

fn d5() {
    for how_far in [Starting, ToBeStopped] {
        assert_eq!(at(how_far).offer(1), [accepted(1)]);
    }
    for how_far in [Running, Stopping] {
        assert_eq!(at(how_far).offer(1), [accepted(1), sent_start(1, 40)]);
    }
}

fn d7() {
    assert_eq!(at(Ended).offer(1), [sent_end(1, 40, 10, true)]);
}

fn d8() {
    let mut script = at(Refused);
    assert_eq!(script.offer(1), [returned(1)]);
    assert_eq!(script.stop(1, 0), [returned(1)]);
}

fn d9() {
    let mut script = at(Stored);
    assert_eq!(script.offer(1), []);
    assert_eq!(script.stop(1, 0), []);
}

fn d10() {
    assert_eq!(Script::new().stop(1, 3_000), [refuse(1)]);
}

fn d11() {
    let mut script = at(Starting);
    assert_eq!(script.stop(1, 3_000), [stop(1, 3_000)]);
    assert_eq!(phase(&script), held(&[(1, HeldPhase::Accepted)]));
    assert_eq!(script.started(1, 40), [sent_start(1, 40)]);
    // It is the shorter grace that counts.
    script.stop(1, 5_000);
    assert_eq!(back(&mut script, vec![listed(1)]), [stop(1, 3_000)]);
}

fn d12() {
    let mut script = at(Running);
    assert_eq!(script.stop(1, 3_000), [stop(1, 3_000)]);
    assert_eq!(script.stop(1, 500), [stop(1, 500)]);
    assert_eq!(back(&mut script, vec![listed(1)]), [stop(1, 500)]);
}

fn d13() {
    for how_far in [Refusing, Ended] {
        let mut script = at(how_far);
        let before = phase(&script);
        assert_eq!(script.stop(1, 0), []);
        assert_eq!(phase(&script), before);
    }
}

fn d14() {
    let mut script = at(Ended);
    assert_eq!(script.acknowledge(1), [forget(1)]);
    assert_eq!(phase(&script), []);
}

fn d15() {
    for how_far in [Starting, ToBeStopped, Refusing, Running, Stopping, Refused, Stored] {
        let mut script = at(how_far);
        let before = phase(&script);
        assert_eq!(script.acknowledge(1), []);
        assert_eq!(phase(&script), before);
    }
    assert_eq!(Script::new().acknowledge(1), []);
}

fn d16() {
    let push = |size| Effect::Push { attempt: id(1), from: Some(4), size };
    for verdict in [Verdict::GoOn, Verdict::Report] {
        let effects = greeting(Running).welcome(&[(1, verdict, 0)]);
        assert_eq!(effects, [Effect::Welcomed, sent_start(1, 40)]);
        let effects = greeting(Ended).welcome(&[(1, verdict, 4)]);
        assert_eq!(effects, [Effect::Welcomed, push(10), sent_end(1, 40, 10, false)]);
    }
}

fn d17() {
    let effects = greeting(Running).welcome(&[(1, Verdict::Stop, 0)]);
    assert_eq!(effects, [Effect::Welcomed, sent_start(1, 40), stop(1, GRACE_MS.into())]);
    let effects = greeting(Ended).welcome(&[(1, Verdict::Stop, 0)]);
    assert_eq!(effects, [Effect::Welcomed, sent_end(1, 40, 10, true)]);
}

fn d18() {
    assert_eq!(greeting(Ended).welcome(&[(1, Verdict::Forget, 0)]), [Effect::Welcomed, forget(1)]);
}

fn d19() {
    for how_far in [Starting, Running] {
        let mut script = greeting(how_far);
        let effects = script.welcome(&[(1, Verdict::Forget, 0)]);
        assert_eq!(effects, [Effect::Welcomed, stop(1, GRACE_MS.into())]);
        assert_eq!(script.ended(1, 0), [forget(1)]);
    }
}

fn d20() {
    assert_eq!(greeting(Running).welcome(&[]), [Effect::Welcomed, sent_start(1, 40)]);
    assert_eq!(greeting(Ended).welcome(&[]), [Effect::Welcomed, sent_end(1, 40, 10, true)]);
}

fn d21() {
    for how_far in [Starting, ToBeStopped] {
        let mut script = at(how_far);
        assert_eq!(script.started(1, 40), [sent_start(1, 40)]);
        assert_eq!(phase(&script), held(&[(1, HeldPhase::Running)]));
    }
}

fn d22() {
    let started =
        Effect::Send(ToCoordinator::Started { attempt: id(1), pid: 40, output_path: String::new() });
    assert_eq!(at(Refusing).started(1, 40), [stop(1, 3_000), started]);
}

fn d23() {
    let started =
        || Effect::Send(ToCoordinator::Started { attempt: id(1), pid: 40, output_path: String::new() });
    for mut script in [Script::new(), at(Refused), at(Stored)] {
        assert_eq!(script.started(1, 40), [started()]);
    }
    assert_eq!(back(&mut Script::new(), vec![listed(1)]), [started()]);
}

fn d24() {
    for how_far in [Starting, ToBeStopped] {
        let outcome = Outcome::LaunchFailed { errno: 2, message: "no such file".into(), for_task: false };
        let report = Report { outcome, ..report(1, 0, 0) };
        assert_eq!(start_failed(&mut at(how_far)), [sent(report)]);
    }
}

fn d25() {
    for how_far in [Starting, ToBeStopped, Refusing] {
        let mut script = at(how_far);
        assert_eq!(script.refused(1), [returned(1)]);
        assert_eq!(script.offer(1), [returned(1)], "and never will be");
    }
}

fn d26() {
    assert_eq!(start_failed(&mut at(Refusing)), [returned(1)]);
}

fn d27() {
    for how_far in [Starting, ToBeStopped] {
        assert_eq!(at(how_far).ended(1, 0), [sent_end(1, 0, 0, false)]);
    }
    for how_far in [Running, Stopping] {
        assert_eq!(at(how_far).ended(1, 0), [sent_end(1, 40, 0, false)]);
    }
    let pathless = || sent(Report { output_path: String::new(), ..report(1, 0, 0) });
    for mut script in [Script::new(), at(Refusing), at(Refused)] {
        assert_eq!(script.ended(1, 0), [pathless()]);
    }
    assert_eq!(at(Ended).ended(1, 0), []);
}

fn d28() {
    let mut script = greeting(Stopping);
    script.welcome(&[(1, Verdict::Forget, 0)]);
    assert_eq!(script.ended(1, 5), [forget(1)]);
    assert_eq!(phase(&script), []);
}

fn d29() {
    assert_eq!(at(Stored).ended(1, 10), [forget(1)]);
    let mut script = at(Stored);
    assert_eq!(back(&mut script, vec![protocol::Held::Ended(runner_ended(1, 10))]), [forget(1)]);
    // Acknowledged while the runner was away.
    let mut script = at(Ended);
    script.event(Event::RunnerDown);
    assert_eq!(script.acknowledge(1), []);
    assert_eq!(script.runner_hello(vec![protocol::Held::Ended(runner_ended(1, 10))]), [forget(1)]);
}

fn d30() {
    for how_far in [Running, Stopping] {
        let outcome = Outcome::Crashed("the runner does not know the task any more".into());
        let report = Report { outcome, ..report(1, 40, 0) };
        assert_eq!(back(&mut at(how_far), Vec::new()), [sent(report)]);
    }
}

fn d31() {
    assert_eq!(back(&mut at(Starting), Vec::new()), [start(1)]);
}

fn d32() {
    for how_far in [ToBeStopped, Refusing] {
        let mut script = at(how_far);
        assert_eq!(back(&mut script, Vec::new()), [refuse(1)]);
        assert_eq!(script.refused(1), [returned(1)]);
    }
}

fn d33() {
    assert_eq!(back(&mut at(Stopping), vec![listed(1)]), [stop(1, 3_000)]);
}

fn d34() {
    for how_far in [Starting, ToBeStopped, Running, Stopping, Ended] {
        let mut script = at(how_far);
        let before = phase(&script);
        assert_eq!(script.event(Event::RunnerDown), []);
        assert_eq!(script.event(Event::SessionEnded(script.session)), []);
        assert_eq!(phase(&script), before);
        assert_eq!(script.dial(), [Effect::Send(ToCoordinator::Hello { held: before, draining: false })]);
    }
}

/// A half that has just been started, over a runner that another one left.
fn anew(held: Vec<protocol::Held>) -> Script {
    let mut script = Script { dispatcher: Dispatcher::new(plan(), 2), ms: 0, session: 0 };
    assert_eq!(script.runner_hello(held), []);
    script
}

#[test]
fn what_ran_while_the_half_was_away_is_listed() {
    let mut script = anew(vec![listed(1), protocol::Held::Ended(runner_ended(2, 0))]);
    assert_eq!(script.dial(), [hello(&[(1, HeldPhase::Running), (2, HeldPhase::Ended)])]);
    let pathless = |report: Report| Report { output_path: String::new(), ..report };
    assert_eq!(
        script.welcome(&[(1, Verdict::GoOn, 0), (2, Verdict::Report, 0)]),
        [
            Effect::Welcomed,
            Effect::Send(ToCoordinator::Started { attempt: id(1), pid: 40, output_path: String::new() }),
            sent(pathless(report(2, 0, 0))),
        ]
    );
}

fn lost() -> protocol::Held {
    protocol::Held::Ended(protocol::Ended { lost: true, exit_code: None, ..runner_ended(1, 0) })
}

fn crashed(pid: i32) -> Report {
    let outcome = Outcome::Crashed("the runner died; what was left of the task was killed".into());
    Report { outcome, ..report(1, pid, 0) }
}

#[test]
fn what_ran_under_a_runner_that_died_has_crashed() {
    assert_eq!(back(&mut at(Running), vec![lost()]), [sent(crashed(40))]);
}

/// walks: R8
#[test]
fn what_ran_before_the_machine_restarted_has_crashed() {
    // Of what its journal knows; what it does not know is not in the hello, which comes from another boot.
    let mut script = anew(vec![lost()]);
    assert_eq!(script.dial(), [hello(&[(1, HeldPhase::Ended)])]);
    let report = Report { output_path: String::new(), ..crashed(0) };
    assert_eq!(script.welcome(&[(1, Verdict::Report, 0)]), [Effect::Welcomed, sent(report)]);
    assert_eq!(anew(Vec::new()).dial(), [hello(&[])]);
}

const SCRIPTS: &[(&str, fn())] = &[
    ("D1", d1),
    ("D2", d2),
    ("D3", d3),
    ("D4", d4),
    ("D5", d5),
    ("D6", || assert_eq!(at(Refusing).offer(1), [])),
    ("D7", d7),
    ("D8", d8),
    ("D9", d9),
    ("D10", d10),
    ("D11", d11),
    ("D12", d12),
    ("D13", d13),
    ("D14", d14),
    ("D15", d15),
    ("D16", d16),
    ("D17", d17),
    ("D18", d18),
    ("D19", d19),
    ("D20", d20),
    ("D21", d21),
    ("D22", d22),
    ("D23", d23),
    ("D24", d24),
    ("D25", d25),
    ("D26", d26),
    ("D27", d27),
    ("D28", d28),
    ("D29", d29),
    ("D30", d30),
    ("D31", d31),
    ("D32", d32),
    ("D33", d33),
    ("D34", d34),
    ("D35", d35),
    ("D36", d36),
    ("D37", d37),
    ("D38", d38),
];
