//! Generated sequences of events for the machine and the model, which must agree after each event. Together they
//! reach every row of the tables.
//!
//! `MUSTER_SEQUENCES` says how many (100,000 where it matters), `MUSTER_SEED` where they begin: what a failure says
//! comes out again with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, atomic::AtomicU64, atomic::Ordering::Relaxed},
};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use proptest::{collection::vec, prop_oneof};

use crate::{
    model_compare::Pair,
    model_rows,
    model_steps::{Step, lonely_step, step},
};

/// Without a word of anyone: what a debug build does in seconds.
const SEQUENCES: u64 = 1_500;
/// So many reach every row, whatever their seeds; fewer can miss one that is rare.
const REACH_ALL: u64 = 20_000;
/// Sequences that come out of one seed.
const A_SEED: u64 = 250;
/// Each step is one event.
const EVENTS: std::ops::Range<usize> = 50..80;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// In how many sequences each row was reached.
type Reached = BTreeMap<&'static str, u64>;

/// Walks a sequence; the rows that were reached on the way.
fn walk(steps: Vec<Step>) -> Result<BTreeSet<&'static str>, String> {
    let mut pair = Pair::new();
    for (no, step) in steps.into_iter().enumerate() {
        let text = format!("{step:?}");
        pair.take(step).map_err(|why| format!("after step {}, {text}: {why}", no + 1))?;
    }
    Ok(pair.model.reached)
}

/// Leaves out whatever can be left out: a sequence that is generated is never short.
fn shorten(mut steps: Vec<Step>) -> Vec<Step> {
    let fails = |steps: &[Step]| {
        std::panic::catch_unwind(|| walk(steps.to_vec())).is_ok_and(|walked| walked.is_err())
    };
    while let Some(shorter) = (0..steps.len()).rev().find_map(|left_out| {
        let mut shorter = steps.clone();
        shorter.remove(left_out);
        fails(&shorter).then_some(shorter)
    }) {
        steps = shorter;
    }
    steps
}

fn walk_seed(seed: u64, sequences: u64, reached: &Mutex<Reached>) {
    let config = Config { cases: sequences as u32, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let here = Mutex::new(Reached::new());
    let (busy, lonely) = (vec(step(), EVENTS), vec(lonely_step(), EVENTS));
    let outcome = runner.run(&prop_oneof![9 => busy, 1 => lonely], |steps| {
        let rows = walk(steps).map_err(TestCaseError::fail)?;
        let mut here = here.lock().map_err(|_| TestCaseError::fail("a lock"))?;
        rows.into_iter().for_each(|row| *here.entry(row).or_default() += 1);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => {
            let steps = shorten(steps);
            let why = walk(steps.clone()).err().unwrap_or_else(|| why.to_string());
            let steps: Vec<_> = steps.iter().map(|step| format!("    {step:?},")).collect();
            panic!("{why}\nthe shortest such sequence:\n{}\nagain with MUSTER_SEED={seed}", steps.join("\n"));
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    if let (Ok(mut reached), Ok(here)) = (reached.lock(), here.into_inner()) {
        here.into_iter().for_each(|(row, times)| *reached.entry(row).or_default() += times);
    }
}

#[test]
fn machine_and_model_agree_after_every_event_and_reach_every_row() {
    let asked = number("MUSTER_SEQUENCES");
    let sequences = asked.unwrap_or(SEQUENCES);
    // A few are the same ones every time, many are others each time.
    let other = asked.map_or(0, |_| u64::from(std::process::id()) << 32);
    let first = number("MUSTER_SEED").unwrap_or(other);
    let seeds = sequences.div_ceil(A_SEED);
    let (next, reached) = (AtomicU64::new(0), Mutex::new(Reached::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let no = next.fetch_add(1, Relaxed);
                    if no >= seeds {
                        return;
                    }
                    walk_seed(first + no, A_SEED.min(sequences - no * A_SEED), &reached);
                }
            });
        }
    });
    let reached = reached.into_inner().unwrap_or_else(|broken| broken.into_inner());
    let missing: Vec<_> =
        model_rows::documented().into_iter().filter(|row| !reached.contains_key(row.as_str())).collect();
    assert!(
        sequences < REACH_ALL || missing.is_empty(),
        "rows that no sequence reached: {missing:?} (seeds {first} and on)"
    );
    let unknown: Vec<_> = reached.keys().filter(|row| !model_rows::documented().contains(**row)).collect();
    assert!(unknown.is_empty(), "rows that no table has: {unknown:?}");
    let rarest = reached.iter().min_by_key(|(_, times)| **times);
    eprintln!("{sequences} sequences from seed {first}; the rarest row: {rarest:?}");
}
