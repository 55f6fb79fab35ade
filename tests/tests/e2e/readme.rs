//! The README's transcripts, replayed with the programs started as it says.

use crate::transcript::{Newcomer, blocks, compare, page, steps};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_run_goes_as_the_readme_shows() {
    let mut newcomer = Newcomer::new();
    let shown = blocks(&page("README.md"), "Try it");
    let [commands, transcript] = &shown[..] else { panic!("{shown:?}") };
    // The programs are built; cargo has nothing to add.
    let first = commands.lines[0].replace("cargo run --bin muster -- ", "muster ");
    assert!(first.starts_with("muster run "), "{first}");
    let (code, printed) = newcomer.give(&first).await;
    compare(&first, &transcript.lines, &printed);
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_five_minutes_go_as_the_readme_shows() {
    let mut newcomer = Newcomer::new();
    let shown = blocks(&page("README.md"), "The first five minutes");
    // The first block builds, the last is of another client.
    let [_, start, transcript, _] = &shown[..] else { panic!("{shown:?}") };
    let mut processes = Vec::new();
    for line in &start.lines {
        processes.push(newcomer.start(line).await);
    }
    assert_eq!(processes.len(), 2, "a coordinator and a worker");
    let steps = steps([transcript]);
    assert!(steps.len() >= 5, "five minutes have some commands");
    for step in &steps {
        assert_eq!(newcomer.replay(step).await, Some(0), "{}", step.command);
    }
}
