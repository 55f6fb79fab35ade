//! Looks models up: fetches contracts and prices over HTTP, each at most once at a time, and keeps them a while.
//!
//! What it does not do: know what a card looks like, or store anything.

mod base_url;
mod cache;
mod client;
mod key;
mod retry;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout, timeout_at};

pub use base_url::BadBaseUrl;
pub(crate) use key::Key;

use self::{
    base_url::BaseUrl,
    cache::{Cache, Ticket},
    client::Client,
};
use crate::core::contract::{Contract, Source, Unavailable};

/// One model, its tries and pauses included.
const MODEL_WITHIN: Duration = Duration::from_secs(25);
/// All models of one call.
const FIND_WITHIN: Duration = Duration::from_secs(45);
/// A price that comes so much later than its contract is not waited for.
const PRICE_GRACE: Duration = Duration::from_secs(3);
/// Words of randomness in the salt that keys are digested with.
const SALT_WORDS: usize = 4;

/// Where and how models are looked up.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `https://host[:port][/path]`.
    pub(crate) base_url: String,
    /// How long what was found is good for; zero keeps nothing.
    pub(crate) keep: Duration,
    /// Whether plain HTTP to another machine is allowed, which shows the key to the network.
    pub(crate) insecure: bool,
}

/// What was found about one model.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) contract: Result<Arc<Contract>, Unavailable>,
    /// What the publisher says about the price, cleaned; `None` when it says nothing that can be read.
    pub(crate) price: Option<String>,
}

/// Looks models up.
pub(crate) struct Models {
    client: Arc<Client>,
    cache: Cache,
    /// New with each process, so that a digest tells nothing elsewhere.
    salt: [u64; SALT_WORDS],
}

impl Models {
    /// Checks the address; connects to nothing.
    pub(crate) fn new(options: Options) -> Result<Self, BadBaseUrl> {
        let base = BaseUrl::parse(&options.base_url, options.insecure)?;
        let client = Client::new(base)
            .ok_or_else(|| BadBaseUrl::new(&options.base_url, "the TLS library does not start"))?;
        // The standard library seeds each of these from the system's randomness.
        let salt = std::array::from_fn(|word| RandomState::new().hash_one(word));
        Ok(Self { client: Arc::new(client), cache: Cache::new(options.keep), salt })
    }

    /// Looks these up, all at once, each of them once. `refresh` asks for what is new now. Has an answer for each
    /// of them, and that within 45 seconds.
    pub(crate) async fn find(
        &self,
        sources: Vec<Source>,
        key: &Key,
        refresh: bool,
    ) -> BTreeMap<Source, Found> {
        let deadline = Instant::now() + FIND_WITHIN;
        let sources: BTreeSet<Source> = sources.into_iter().collect();
        let mut tickets = Vec::new();
        for source in sources {
            let ticket = timeout_at(deadline, self.ask(&source, key, refresh)).await;
            tickets.push((source, ticket));
        }
        let mut found = BTreeMap::new();
        for (source, ticket) in tickets {
            let answer = match ticket {
                Ok(ticket) => timeout_at(deadline, ticket.answer()).await,
                Err(late) => Err(late),
            };
            found.insert(source, answer.unwrap_or_else(|_| too_late(FIND_WITHIN)));
        }
        found
    }

    /// Begins to look one up, unless it is there or somebody does already.
    fn ask(&self, source: &Source, key: &Key, refresh: bool) -> impl Future<Output = Ticket> {
        let slot = (source.clone(), self.digest(key));
        let (client, source, key) = (Arc::clone(&self.client), source.clone(), key.clone());
        self.cache.ask(slot, refresh, move || async move { look_up(&client, &source, &key).await })
    }

    fn digest(&self, key: &Key) -> [u8; 32] {
        let mut digest = Sha256::new();
        self.salt.iter().for_each(|word| digest.update(word.to_le_bytes()));
        digest.update(key.bytes());
        digest.finalize().into()
    }
}

/// Contract and price, asked for at the same time.
async fn look_up(client: &Client, source: &Source, key: &Key) -> Found {
    let deadline = Instant::now() + MODEL_WITHIN;
    let mut price = pin!(client.price(source, key));
    let mut contract = pin!(timeout_at(deadline, client.contract(source, key, deadline)));
    let mut known_price = None;
    let contract = loop {
        tokio::select! {
            contract = &mut contract => break contract,
            price = &mut price, if known_price.is_none() => known_price = Some(price),
        }
    };
    let price = match known_price {
        Some(price) => price,
        None => timeout(PRICE_GRACE, price).await.ok().flatten(),
    };
    let contract = contract
        .unwrap_or(Err(Unavailable::Timeout { seconds: MODEL_WITHIN.as_secs() }))
        .inspect_err(|why| tracing::warn!(source = ?source.to_string(), ?why, "a contract is not available"));
    Found { contract: contract.map(Arc::new), price }
}

fn too_late(within: Duration) -> Found {
    Found { contract: Err(Unavailable::Timeout { seconds: within.as_secs() }), price: None }
}

#[cfg(test)]
mod tests;
