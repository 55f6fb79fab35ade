//! One worker with one task: how far it is, and what is said and seen of it. What the scripts of rows are made of.

use muster_coordinator::core::{event::*, model::*};
use muster_proto::AttemptId;

use crate::{model::Out, model_workers::TERMS, world::*};

/// How far the one task of a script is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Offered,
    Accepted,
    Started,
    /// Its result is in, not all of its output.
    Reported,
}

pub(crate) use Stage::{Accepted, Offered, Reported, Started as Runs};
pub(crate) use muster_coordinator::core::event::HeldPhase as Held;
pub(crate) use muster_coordinator::core::model::TaskStatus as Is;

pub(crate) const ID: fn() -> AttemptId = || attempt(1, 1, 1);

/// One worker with one place has the one task of batch 1.
pub(crate) fn stage(stage: Stage, cancelled: bool) -> World {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    if stage != Offered {
        world.says(1, FromWorker::Accepted(ID()));
    }
    if matches!(stage, Runs | Reported) {
        world.says(1, FromWorker::Started(ID(), Started { pid: 7, output_path: "/o".into() }));
    }
    if stage == Reported {
        world.says(1, FromWorker::Ended(ID(), Box::new(Ended { log_size: 9, ..*exited(0) })));
        world.send(Event::LogStored(ID(), 4));
    }
    if cancelled {
        world.cancel(1, &[1]);
    }
    world
}

pub(crate) fn outs(outputs: &[Output]) -> Vec<Out> {
    let plain = |output: &Output| match output {
        Output::Reply(_, Reply::Attached) => Out::Reply(Reply::Attached),
        Output::Reply(_, Reply::Refused(refused)) => Out::Reply(Reply::Refused(refused.clone())),
        Output::Reply(_, Reply::Batch(id, revision)) => Out::Reply(Reply::Batch(*id, *revision)),
        Output::Reply(_, reply) => panic!("no script expects {reply:?}"),
        Output::Send(session, message) => Out::Send(session.0, message.clone()),
        Output::Close(session, _) => Out::Close(session.0),
    };
    outputs.iter().map(plain).collect()
}

pub(crate) fn attached() -> Out {
    Out::Reply(Reply::Attached)
}

pub(crate) fn refused(session: u64, refused: Refused) -> Vec<Out> {
    vec![Out::Reply(Reply::Refused(refused)), Out::Close(session)]
}

pub(crate) fn offer(session: u64, id: AttemptId) -> Out {
    Out::Send(session, ToWorker::Offer(id, TERMS))
}

pub(crate) fn stop(session: u64) -> Out {
    Out::Send(session, ToWorker::Stop { attempt: ID(), grace_ms: 10_000 })
}

pub(crate) fn acknowledged(session: u64) -> Out {
    Out::Send(session, ToWorker::Acknowledged(ID()))
}

pub(crate) fn welcome(session: u64, verdicts: &[Verdict]) -> Out {
    Out::Send(session, ToWorker::Welcome(verdicts.iter().map(|verdict| (ID(), *verdict)).collect()))
}

#[track_caller]
pub(crate) fn is(world: &World, status: TaskStatus, failure: Option<FailureReason>) {
    let task = world.task(1, 1);
    assert_eq!((task.status, task.failure), (status, failure), "{task:?}");
}

pub(crate) fn crashed() -> Option<FailureReason> {
    Some(FailureReason::WorkerCrashed)
}

/// Lists one attempt, or none, after the stream was cut.
pub(crate) fn comes_back(world: &mut World, boot: &str, listed: Option<HeldPhase>) -> Vec<Out> {
    world.send(Event::Gone(SessionId(1)));
    let held: Vec<_> = listed.map(|phase| (ID(), phase)).into_iter().collect();
    let hello = Hello { boot_id: boot.into(), ..*hello(1, 1, &held) };
    outs(&world.connect(2, Box::new(hello)))
}

pub(crate) fn other_boot() -> &'static str {
    "another"
}
