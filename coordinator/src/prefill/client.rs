//! Asks the API, over HTTP.
//!
//! What it does not do: keep anything, or let a word of an error below it out. No reply is trusted: its size, its
//! time and where it points to are bounded here, its content in `core::contract`.

use std::time::{Duration, SystemTime};

use reqwest::{
    Response, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use super::{
    base_url::BaseUrl,
    key::Key,
    retry::{MAX_TRIES, jitter, pause, retry_after},
};
use crate::core::contract::{self, Answer, Contract, Source, Unavailable};

/// A machine that does not take a connection within this time is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// One question with its answer.
const TRY_WITHIN: Duration = Duration::from_secs(10);
/// The largest body. A contract with everything in it has some 50 KiB.
const MAX_BODY_BYTES: usize = 1 << 20;
/// The most redirects that are followed, all within the same place.
const MAX_REDIRECTS: usize = 3;
/// The most questions under way at once, over all batches.
const MAX_CALLS: usize = 64;

pub(super) struct Client {
    http: reqwest::Client,
    base: BaseUrl,
    calls: Semaphore,
}

struct Reply {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Client {
    /// `None` if the TLS library does not start.
    pub(super) fn new(base: BaseUrl) -> Option<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert("lang", HeaderValue::from_static("zh"));
        let builder = reqwest::Client::builder()
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_WITHIN)
            .http1_only()
            .referer(false)
            .redirect(Policy::custom(|attempt| {
                // Anywhere else the key has no business.
                let within = attempt.previous().first().is_some_and(|first| {
                    BaseUrl::is_same_place(first, attempt.url()) && attempt.previous().len() <= MAX_REDIRECTS
                });
                if within { attempt.follow() } else { attempt.stop() }
            }));
        // A proxy cannot reach what is on this machine.
        let builder = if base.is_loopback() { builder.no_proxy() } else { builder };
        Some(Self { http: builder.build().ok()?, base, calls: Semaphore::new(MAX_CALLS) })
    }

    /// A contract, tried again where the API asks for it and it ends before `deadline`.
    pub(super) async fn contract(
        &self,
        source: &Source,
        key: &Key,
        deadline: Instant,
    ) -> Result<Contract, Unavailable> {
        let url = self.base.contract(source);
        let mut tries = 0;
        loop {
            tries += 1;
            let reply = self.ask(url.clone(), key).await?;
            let busy = match contract::contract(source, reply.status, &reply.body, key.hide()) {
                Answer::Found(contract) => return Ok(contract),
                Answer::Failed(why) => return Err(why),
                Answer::Retry(busy) => busy,
            };
            let pause = pause(tries, reply.retry_after, jitter());
            if tries == MAX_TRIES || pause >= deadline.saturating_duration_since(Instant::now()) {
                return Err(busy);
            }
            tracing::debug!(source = ?source.to_string(), tries, ?pause, "asks again for a contract");
            sleep(pause).await;
        }
    }

    /// What the publisher says about the price. One try: nothing depends on it.
    pub(super) async fn price(&self, source: &Source, key: &Key) -> Option<String> {
        let reply = self.ask(self.base.price(source)?, key).await.ok()?;
        contract::price(reply.status, &reply.body, key.hide())
    }

    /// One question.
    async fn ask(&self, url: Url, key: &Key) -> Result<Reply, Unavailable> {
        // Never closed.
        let _permit = self.calls.acquire().await.map_err(|_| Unavailable::Unreachable)?;
        let asked = timeout(TRY_WITHIN, async {
            let sent = self.http.get(url).header(AUTHORIZATION, key.header()).send().await;
            read(sent.map_err(|error| named(&error))?).await
        });
        asked.await.unwrap_or(Err(Unavailable::Timeout { seconds: TRY_WITHIN.as_secs() }))
    }
}

async fn read(mut response: Response) -> Result<Reply, Unavailable> {
    let status = response.status();
    if status.is_redirection() && response.headers().contains_key(LOCATION) {
        return Err(Unavailable::Redirected);
    }
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|text| retry_after(text, SystemTime::now()));
    let body = body(&mut response).await;
    // Of a refusal the status is enough.
    let body = if status.is_success() { body? } else { body.unwrap_or_default() };
    Ok(Reply { status: status.as_u16(), retry_after, body })
}

async fn body(response: &mut Response) -> Result<Vec<u8>, Unavailable> {
    let too_large = Unavailable::TooLarge { limit: MAX_BODY_BYTES };
    if response.content_length().is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(too_large);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| named(&error))? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(too_large);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What an error of the HTTP library means to a user. Its words are for the operator's log, at most: they have
/// addresses in them.
fn named(error: &reqwest::Error) -> Unavailable {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    // The innermost cause is the system's or the TLS library's word. The outermost has the address in it.
    if !std::ptr::eq(cause, error as &dyn std::error::Error) {
        tracing::debug!(cause = ?cause.to_string(), "no answer from the models' API");
    }
    if error.is_timeout() {
        return Unavailable::Timeout { seconds: CONNECT_WITHIN.as_secs() };
    }
    Unavailable::Unreachable
}
