//! The part of `muster run` that follows its batch: output of tasks, Ctrl-C.

use crate::support::{Buffer, DEADLINE, Fake, Step, batch, change, context, piece, task};
use muster_cli::{
    client::Client,
    commands::run::{drive::drive, printer::Printer},
    error::Exit,
};
use muster_proto::v1::{SchedulerStatus, TaskStatus};
use tokio::sync::mpsc;

#[tokio::test]
async fn output_of_tasks_is_shown_line_by_line_with_their_number() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = batch(1, 1, 0);
    fake.state.watches.lock().unwrap().push_back(vec![
        change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Running)]),
        change("l", 2, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)]),
    ]);
    fake.state
        .tails
        .lock()
        .unwrap()
        .push_back(vec![piece(0, b"hel", false), piece(3, b"lo\n\x1b[2J50%\r", true)]);
    let (out, err) = (Buffer::default(), Buffer::default());
    let client = Client::new(&context(&fake.url(), Box::new(out.clone()), &err)).unwrap();
    let printer = Printer::start(client.context().io.clone());
    let print = printer.sender();
    let (_interrupt, mut interrupts) = mpsc::channel(1);
    let outcome = drive(&client, "b1", &print, &mut interrupts, true).await.unwrap();
    drop(print);
    printer.finish().await;
    assert_eq!(outcome.exit, Exit::Completed);
    assert_eq!(outcome.summary, ["1 of 1 tasks completed"]);
    assert_eq!(outcome.first_log, None);
    assert!(out.text().contains("[1] hello\n[1] 50%\n"), "{}", out.text());
    assert_eq!(fake.state.seen_tails.lock().unwrap().len(), 1, "one tail an attempt");
}

#[tokio::test]
async fn the_first_interrupt_cancels_and_the_second_does_so_at_once() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = batch(1, 0, 0);
    let cancelled =
        muster_proto::v1::Batch { scheduler_status: SchedulerStatus::Cancelled.into(), ..batch(1, 0, 0) };
    fake.state.watches.lock().unwrap().extend([
        vec![change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Queued)]), Step::Hang],
        vec![change("l", 2, cancelled, vec![task(1, TaskStatus::Cancelled)])],
    ]);
    let (out, err) = (Buffer::default(), Buffer::default());
    let client = Client::new(&context(&fake.url(), Box::new(out), &err)).unwrap();
    let printer = Printer::start(client.context().io.clone());
    let print = printer.sender();
    let (interrupt, mut interrupts) = mpsc::channel(2);
    let state = fake.state.clone();
    let pressing = async {
        for count in 1..=2 {
            interrupt.send(()).await.unwrap();
            while state.seen_cancels.lock().unwrap().len() < count {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
    };
    let driving = drive(&client, "b1", &print, &mut interrupts, true);
    tokio::pin!(driving);
    tokio::time::timeout(DEADLINE, async {
        tokio::select! {
            _ = &mut driving => panic!("the batch has not ended"),
            () = pressing => {}
        }
    })
    .await
    .expect("both cancellations arrive");
    let cancels = fake.state.seen_cancels.lock().unwrap();
    assert!(!cancels[0].immediate && cancels[1].immediate);
    assert_ne!(cancels[0].request_id, cancels[1].request_id);
}

/// A terminal that nobody reads, until it is dropped.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl std::io::Write for Stuck {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.recv();
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_interrupt_cancels_and_ends_the_run_even_though_nobody_reads_what_is_printed() {
    let fake = Fake::start();
    let many: Vec<_> = (1..=1_000).map(|index| task(index, TaskStatus::Running)).collect();
    let ended =
        muster_proto::v1::Batch { scheduler_status: SchedulerStatus::Cancelled.into(), ..batch(1_000, 0, 0) };
    *fake.state.batch.lock().unwrap() = ended.clone();
    fake.state.watches.lock().unwrap().push_back(vec![
        change("l", 1, batch(1_000, 0, 0), many),
        change("l", 2, ended, vec![task(1, TaskStatus::Cancelled)]),
    ]);
    let (_reader, stuck) = std::sync::mpsc::channel();
    let err = Buffer::default();
    let client = Client::new(&context(&fake.url(), Box::new(Stuck(stuck)), &err)).unwrap();
    let printer = Printer::start(client.context().io.clone());
    let print = printer.sender();
    let (interrupt, mut interrupts) = mpsc::channel(1);
    interrupt.send(()).await.unwrap();
    let driving = drive(&client, "b1", &print, &mut interrupts, true);
    let outcome = tokio::time::timeout(DEADLINE, driving).await.expect("the run ends").unwrap();
    assert_eq!(outcome.exit, Exit::Interrupted);
    assert_eq!(fake.state.seen_cancels.lock().unwrap().len(), 1);
    drop(print);
    assert!(!printer.finish().await, "what is stuck is left behind");
    assert!(err.text().contains("interrupted"), "{}", err.text());
}
