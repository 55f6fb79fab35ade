//! The scripts of the rows about hellos: what one means for attempts, and who is let in.

use muster_coordinator::core::{event::*, model::*};

use crate::{model::Out, model_stage::*, world::*};

pub(crate) fn h1(boot: &str) {
    for (from, listed) in [(Offered, Held::Accepted), (Accepted, Held::Accepted), (Runs, Held::Running)] {
        let mut world = stage(from, false);
        assert_eq!(comes_back(&mut world, boot, Some(listed)), [attached(), welcome(2, &[Verdict::GoOn])]);
        is(&world, Is::Running, None);
    }
}

pub(crate) fn h2(boot: &str) {
    let mut world = stage(Accepted, true);
    assert_eq!(
        comes_back(&mut world, boot, Some(Held::Accepted)),
        [attached(), welcome(2, &[Verdict::Stop])]
    );
    is(&world, Is::Running, None);
    assert!(world.task(1, 1).cancel_requested);
}

pub(crate) fn h3(boot: &str) {
    let mut world = stage(Runs, true);
    let said = comes_back(&mut world, boot, Some(Held::Running));
    assert_eq!(said, [attached(), welcome(2, &[Verdict::GoOn]), stop(2)]);
    is(&world, Is::Running, None);
}

pub(crate) fn h4(boot: &str) {
    let mut world = stage(Runs, false);
    assert_eq!(comes_back(&mut world, boot, Some(Held::Ended)), [attached(), welcome(2, &[Verdict::Report])]);
    is(&world, Is::Running, None);
}

pub(crate) fn h5a() {
    for from in [Offered, Accepted] {
        let mut world = stage(from, false);
        let said = comes_back(&mut world, "boot", None);
        assert_eq!(said, [attached(), welcome(2, &[]), offer(2, attempt(1, 1, 2))]);
        assert!(world.store.attempts.is_empty(), "uncounted");
        let mut world = stage(from, true);
        assert_eq!(comes_back(&mut world, "boot", None), [attached(), welcome(2, &[])]);
        is(&world, Is::Cancelled, None);
        assert!(world.task(1, 1).end_confirmed);
    }
}

pub(crate) fn h5b() {
    for from in [Offered, Accepted] {
        given_up_by(other_boot(), from);
    }
}

pub(crate) fn given_up_by(boot: &str, from: Stage) {
    let mut world = stage(from, false);
    assert_eq!(comes_back(&mut world, boot, None), [attached(), welcome(2, &[])]);
    is(&world, Is::Failed, crashed());
    let mut world = stage(from, true);
    assert_eq!(comes_back(&mut world, boot, None), [attached(), welcome(2, &[])]);
    is(&world, Is::Cancelled, None);
    assert!(!world.task(1, 1).end_confirmed);
}

pub(crate) fn h7(boot: &str) {
    let mut world = stage(Reported, false);
    assert_eq!(comes_back(&mut world, boot, None), [attached(), welcome(2, &[])]);
    is(&world, Is::Completed, None);
    assert_eq!((world.task(1, 1).log_bytes, world.task(1, 1).log_discarded), (4, 5));
}

/// Given up, without knowing how it ended.
pub(crate) fn given_up() -> World {
    let mut world = stage(Runs, false);
    world.send(Event::Gone(SessionId(1)));
    world.pass(100_000);
    is(&world, Is::Failed, crashed());
    world
}

pub(crate) fn n1() {
    for phase in [Held::Accepted, Held::Running] {
        let mut world = given_up();
        assert_eq!(comes_back(&mut world, "boot", Some(phase)), [attached(), welcome(2, &[Verdict::Stop])]);
    }
}

pub(crate) fn n2() {
    let mut world = given_up();
    assert_eq!(
        comes_back(&mut world, "boot", Some(Held::Ended)),
        [attached(), welcome(2, &[Verdict::Report])]
    );
}

pub(crate) fn n3() {
    let mut world = stage(Runs, false);
    world.says(1, FromWorker::Ended(ID(), exited(0)));
    assert_eq!(
        comes_back(&mut world, "boot", Some(Held::Ended)),
        [attached(), welcome(2, &[Verdict::Forget])]
    );
}

/// A worker of boot "boot" whose newest hello has number 5, connected or not.
pub(crate) fn greeted(up: bool) -> World {
    let mut world = World::new();
    world.connect(1, numbered("boot", 5));
    if !up {
        world.send(Event::Gone(SessionId(1)));
    }
    world
}

pub(crate) fn numbered(boot: &str, connection: u64) -> Box<Hello> {
    Box::new(Hello { connection, boot_id: boot.into(), ..*hello(1, 1, &[]) })
}

pub(crate) fn greets(up: bool, hello: Box<Hello>) -> Vec<Out> {
    outs(&greeted(up).connect(2, hello))
}

pub(crate) fn welcomed() -> Vec<Out> {
    vec![attached(), welcome(2, &[])]
}

pub(crate) fn s1a() {
    assert_eq!(greets(true, numbered("boot", 6)), [Out::Close(1), attached(), welcome(2, &[])]);
}

pub(crate) fn s1b() {
    assert_eq!(greets(false, numbered("boot", 6)), welcomed());
}

pub(crate) fn s2(up: bool) {
    for number in [4, 5] {
        assert_eq!(greets(up, numbered("boot", number)), refused(2, Refused::Outdated));
    }
}

pub(crate) fn s3a() {
    assert_eq!(greets(true, numbered(other_boot(), 6)), refused(2, Refused::Clone));
}

pub(crate) fn s3b() {
    // Another boot counts from its own beginning.
    assert_eq!(greets(false, numbered(other_boot(), 1)), welcomed());
}

pub(crate) fn namesake() -> Box<Hello> {
    Box::new(Hello { worker: WorkerRef { name: "w1".into(), ..worker(2) }, ..*hello(2, 1, &[]) })
}

pub(crate) fn s4a() {
    assert_eq!(greets(true, namesake()), refused(2, Refused::NameInUse("w1".into())));
}

pub(crate) fn s4b() {
    assert_eq!(greets(false, namesake()), welcomed());
}

/// The third time that a session is replaced within a minute.
pub(crate) fn contended() -> World {
    let mut world = World::new();
    for session in 1..=3 {
        let hello = numbered("boot", session);
        assert_eq!(*reply(&world.connect(session, hello)), Reply::Attached);
    }
    let mut expected = refused(4, Refused::Contended);
    expected.insert(0, Out::Close(3));
    assert_eq!(outs(&world.connect(4, numbered("boot", 4))), expected);
    world
}

pub(crate) fn s5b() {
    let mut world = contended();
    world.pass(59_999);
    assert_eq!(outs(&world.connect(5, numbered("boot", 5))), refused(5, Refused::Contended));
    world.pass(1);
    assert_eq!(outs(&world.connect(6, numbered("boot", 6))), [attached(), welcome(6, &[])]);
}
