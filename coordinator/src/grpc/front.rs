//! What stands before every service: finds the one that is called, lets large requests take turns, ends a call
//! that hangs, and refuses a message that is too long with the limit's name instead of the library's words.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};
use tonic::{Status, body::Body, codegen::Service, server::NamedService};

use super::status;

/// Largest request to BatchService, in bytes.
pub(crate) const MAX_REQUEST_BYTES: usize = 16 * 1_024 * 1_024;
/// Submissions that are read and carried out at once: each may hold its largest size a few times.
const SUBMITS_AT_ONCE: usize = 64;
/// A call is read and answered within this; a stream has begun by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Prefills at once; apart from submissions, since they wait for another machine.
const PREFILLS_AT_ONCE: usize = 16;
/// The calls whose requests may be large.
const SUBMIT_PATH: &str = "/muster.v1.BatchService/SubmitBatch";
const PREFILL_PATH: &str = "/muster.v1.BatchService/PrefillBatch";

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type Answer = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// All services by name. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Front {
    services: Arc<HashMap<&'static str, Box<dyn Serve>>>,
    submits: Arc<Semaphore>,
    prefills: Arc<Semaphore>,
}

impl Front {
    pub(crate) fn new(services: Services) -> Self {
        Self {
            services: Arc::new(services.0),
            submits: Arc::new(Semaphore::new(SUBMITS_AT_ONCE)),
            prefills: Arc::new(Semaphore::new(PREFILLS_AT_ONCE)),
        }
    }

    fn answer(&self, request: Request) -> Answer {
        let path = request.uri().path();
        // "/package.Service/Method"
        let name = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(name, _)| name);
        match name.and_then(|name| self.services.get(name)) {
            Some(service) => service.serve(request),
            None => {
                let status = Status::unimplemented("there is no such service here");
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

/// Services to be served.
#[derive(Default)]
pub(crate) struct Services(HashMap<&'static str, Box<dyn Serve>>);

impl Services {
    pub(crate) fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request, Response = Response, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        self.0.insert(S::NAME, Box::new(service));
        self
    }
}

/// A service of whatever type. Those of tonic are always ready.
trait Serve: Send + Sync {
    fn serve(&self, request: Request) -> Answer;
}

impl<S> Serve for S
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    fn serve(&self, request: Request) -> Answer {
        Box::pin(self.clone().call(request))
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Answer {
        let front = self.clone();
        let late = match request.uri().path() {
            PREFILL_PATH => status::prefill_too_slow,
            _ => status::too_slow,
        };
        Box::pin(async move {
            let answer = async {
                let turns = match request.uri().path() {
                    SUBMIT_PATH => Some(&front.submits),
                    PREFILL_PATH => Some(&front.prefills),
                    _ => None,
                };
                let _turn = match turns {
                    // The semaphore is never closed.
                    Some(turns) => turns.acquire().await.ok(),
                    None => None,
                };
                front.answer(request).await
            };
            match timeout(ANSWER_WITHIN, answer).await {
                Ok(answer) => answer.map(named),
                Err(_) => Ok(late(ANSWER_WITHIN.as_secs()).into_http()),
            }
        })
    }
}

fn named(response: Response) -> Response {
    let header = |name| response.headers().get(name).map(http::HeaderValue::as_bytes);
    let refused =
        status::refused_for_length(header("grpc-status"), header("grpc-message"), MAX_REQUEST_BYTES);
    refused.map_or(response, Status::into_http)
}
