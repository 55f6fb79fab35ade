//! What was looked up a moment ago, and who waits for what is being looked up now.
//!
//! One look-up at a time for each model and key: whoever asks meanwhile waits for the same one, and it goes on
//! when the one who asked first has gone. Failures reach all who wait and are not kept.
//!
//! What it does not do: look anything up, or know a key (only a digest of it).

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::Found;
use crate::core::contract::{Contract, FieldKind, Source, Unavailable};

/// The most models that are kept; the oldest goes first.
const MAX_KEPT: usize = 1_024;
/// The most memory that they take, roughly, in bytes: a contract is as large as its publisher makes it.
const MAX_KEPT_BYTES: usize = 32 << 20;
/// The most look-ups under way; whoever comes later waits for one to end.
const MAX_FLIGHTS: usize = 1_024;

/// A model as seen with a key, which is there as a digest.
pub(super) type Slot = (Source, [u8; 32]);

/// What is kept and what is under way. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Cache {
    keep: Duration,
    flights: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

/// An answer, or the promise of one.
pub(super) enum Ticket {
    /// Found a moment ago.
    Kept(Found),
    /// Being looked up.
    Flying(watch::Receiver<Option<Found>>),
}

impl Ticket {
    /// The answer, as soon as it is there.
    pub(super) async fn answer(self) -> Found {
        let mut flight = match self {
            Self::Kept(found) => return found,
            Self::Flying(flight) => flight,
        };
        let landed = flight.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        // Without an answer only if the look-up was ended, with the whole program.
        landed.unwrap_or(Found { contract: Err(Unavailable::Unreachable), price: None })
    }
}

impl Cache {
    /// Keeps what is found for so long; zero keeps nothing.
    pub(super) fn new(keep: Duration) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        Self { keep, flights: Arc::new(Semaphore::new(MAX_FLIGHTS)), state }
    }

    /// What is kept, unless `refresh`; else what is under way; else begins `look_up`. Waits only while too many
    /// are under way.
    pub(super) async fn ask<F>(&self, slot: Slot, refresh: bool, look_up: impl FnOnce() -> F) -> Ticket
    where
        F: Future<Output = Found> + Send + 'static,
    {
        if let Some(ticket) = self.state().ticket(&slot, refresh, Instant::now()) {
            return ticket;
        }
        let permit = Arc::clone(&self.flights).acquire_owned().await;
        let (answer, flight) = watch::channel(None);
        {
            let mut state = self.state();
            // Somebody else may have begun while we waited.
            if let Some(ticket) = state.ticket(&slot, refresh, Instant::now()) {
                return ticket;
            }
            state.flights.insert(slot.clone(), flight.clone());
        }
        let look_up = look_up();
        let cache = self.clone();
        // A task of its own: the one who asked may go away, and others wait for it.
        tokio::spawn(async move {
            let found = look_up.await;
            cache.state().land(slot, &found, cache.keep, Instant::now());
            answer.send_replace(Some(found));
            drop(permit);
        });
        Ticket::Flying(flight)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole at each step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    kept: HashMap<Slot, Kept>,
    kept_bytes: usize,
    flights: HashMap<Slot, watch::Receiver<Option<Found>>>,
}

struct Kept {
    found: Found,
    since: Instant,
    until: Instant,
    bytes: usize,
}

impl State {
    fn ticket(&mut self, slot: &Slot, refresh: bool, now: Instant) -> Option<Ticket> {
        if !refresh && let Some(kept) = self.kept.get(slot).filter(|kept| now < kept.until) {
            return Some(Ticket::Kept(kept.found.clone()));
        }
        let flight = self.flights.get(slot)?;
        if flight.has_changed().is_err() {
            // Its task ended without landing; the next one begins anew.
            self.flights.remove(slot);
            return None;
        }
        Some(Ticket::Flying(flight.clone()))
    }

    fn land(&mut self, slot: Slot, found: &Found, keep: Duration, now: Instant) {
        self.flights.remove(&slot);
        let Ok(contract) = &found.contract else { return };
        let Some(until) = now.checked_add(keep).filter(|until| *until > now) else { return };
        self.forget(&slot);
        let bytes = size(contract) + found.price.as_deref().map_or(0, str::len);
        let ended: Vec<_> =
            self.kept.iter().filter(|(_, kept)| kept.until <= now).map(|(slot, _)| slot.clone()).collect();
        ended.iter().for_each(|slot| self.forget(slot));
        while self.kept.len() >= MAX_KEPT || self.kept_bytes + bytes > MAX_KEPT_BYTES {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.since).map(|(slot, _)| slot.clone());
            let Some(oldest) = oldest else { break };
            self.forget(&oldest);
        }
        self.kept_bytes += bytes;
        self.kept.insert(slot, Kept { found: found.clone(), since: now, until, bytes });
    }

    fn forget(&mut self, slot: &Slot) {
        if let Some(kept) = self.kept.remove(slot) {
            self.kept_bytes -= kept.bytes;
        }
    }
}

/// Roughly what a contract takes, in bytes.
fn size(contract: &Contract) -> usize {
    let fields = contract.fields.iter().map(|field| {
        let texts = [&field.name, &field.label, &field.preset, &field.min, &field.max];
        let word = if let FieldKind::Other(word) = &field.kind { word.len() } else { 0 };
        let options = field.options.iter().map(|option| size_of::<String>() + option.len()).sum::<usize>();
        size_of_val(field) + texts.into_iter().map(String::len).sum::<usize>() + word + options
    });
    size_of_val(contract) + contract.name.len() + fields.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn slot(number: usize) -> Slot {
        (Source::App(number.to_string()), [0; 32])
    }

    fn found(name: &str) -> Found {
        let contract = Contract { name: name.into(), ..Contract::default() };
        Found { contract: Ok(Arc::new(contract)), price: None }
    }

    fn failed() -> Found {
        Found { contract: Err(Unavailable::Unreachable), price: None }
    }

    fn name(found: Found) -> String {
        found.contract.unwrap().name.clone()
    }

    async fn ask_now(cache: &Cache, refresh: bool, answer: Found) -> Found {
        cache.ask(slot(1), refresh, || async { answer }).await.answer().await
    }

    #[tokio::test]
    async fn what_was_found_is_kept_and_a_failure_is_not() {
        let cache = Cache::new(HOUR);
        assert!(ask_now(&cache, false, failed()).await.contract.is_err());
        assert_eq!(name(ask_now(&cache, false, found("a")).await), "a");
        assert_eq!(name(ask_now(&cache, false, found("b")).await), "a");
        assert_eq!(name(ask_now(&cache, true, found("c")).await), "c");
        assert_eq!(name(ask_now(&cache, false, found("d")).await), "c");
        // Another key sees for itself.
        let other = (slot(1).0, [1; 32]);
        assert_eq!(name(cache.ask(other, false, || async { found("e") }).await.answer().await), "e");
        let none = Cache::new(Duration::ZERO);
        assert_eq!(name(ask_now(&none, false, found("a")).await), "a");
        assert_eq!(name(ask_now(&none, false, found("b")).await), "b");
    }

    #[tokio::test]
    async fn all_who_ask_meanwhile_share_one_look_up_even_if_the_first_goes_away() {
        let cache = Cache::new(HOUR);
        let begun = Arc::new(AtomicU32::new(0));
        let (open, gate) = oneshot::channel::<()>();
        let mut gate = Some(gate);
        let mut tickets = Vec::new();
        for refresh in [false, true, false] {
            let (begun, gate) = (Arc::clone(&begun), gate.take());
            let look_up = move || async move {
                begun.fetch_add(1, Ordering::SeqCst);
                gate.unwrap().await.unwrap();
                found("a")
            };
            tickets.push(cache.ask(slot(1), refresh, look_up).await);
        }
        drop(tickets.remove(0));
        open.send(()).unwrap();
        for ticket in tickets {
            assert_eq!(name(ticket.answer().await), "a");
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        assert_eq!(name(ask_now(&cache, false, found("b")).await), "a");
    }

    #[tokio::test]
    async fn a_look_up_that_ends_without_an_answer_holds_nobody_up() {
        let cache = Cache::new(HOUR);
        let ticket = cache.ask(slot(1), false, || async { panic!("the look-up fails") }).await;
        assert_eq!(ticket.answer().await.contract, Err(Unavailable::Unreachable));
        assert_eq!(name(ask_now(&cache, false, found("a")).await), "a");
    }

    #[test]
    fn what_is_kept_ends_and_is_bounded() {
        let start = Instant::now();
        let at = |seconds: usize| start + Duration::from_secs(seconds as u64);
        let mut state = State::default();
        for number in 0..MAX_KEPT + 10 {
            state.land(slot(number), &found("a"), HOUR, at(number));
        }
        assert_eq!(state.kept.len(), MAX_KEPT);
        assert!(state.ticket(&slot(9), false, at(2_000)).is_none(), "the oldest went");
        assert!(state.ticket(&slot(10), false, at(2_000)).is_some());
        assert!(state.ticket(&slot(10), false, at(3_609)).is_some());
        assert!(state.ticket(&slot(10), false, at(3_610)).is_none());
        let large = found(&"x".repeat(MAX_KEPT_BYTES / 3));
        for number in 0..4 {
            state.land(slot(number), &large, HOUR, at(3_000 + number));
            assert!(state.kept_bytes <= MAX_KEPT_BYTES);
        }
        assert_eq!(state.kept.len(), 2);
        state.land(slot(9), &found("a"), HOUR, at(100_000));
        assert_eq!((state.kept.len(), state.kept_bytes < 1_000), (1, true));
    }
}
