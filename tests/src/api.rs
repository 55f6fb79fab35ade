//! A stand-in for the API that models are looked up at: the documented replies over real HTTP, for the models of
//! the catalogue and one app, and on request every way of going wrong.
//!
//! It counts what it is asked and notes each Authorization header, so that tests can tell who got the key. What
//! it does not do: run anything, or judge the key.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, StatusCode, body::Frame, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

const DETAIL: &str = "/x/v1/modelzoo/detail/";
const PRICE: &str = "/x/v1/modelzoo/price_table/";
const APP: &str = "/x/v1/webapp/";
/// What a field of a hostile reply has in it.
const CONTROLS: &str = "\u{1b}[2J\u{7}\r\n- prompt: evil\n## 9. evil\u{202e}\u{2066}\u{feff}\u{2028}`|\u{0}";

type Body = BoxBody<Bytes, io::Error>;

/// How a question is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// As documented.
    Right,
    /// As documented, once [`Api::open`] was called.
    Gated,
    /// As documented, once so many questions for contracts were under way at the same moment.
    Together(usize),
    /// Never.
    Silence,
    /// This status without content, perhaps with a Retry-After.
    Status(u16, Option<&'static str>),
    /// Status 200 with this code.
    Code(i64),
    /// Status 200 with this JSON.
    Json(Value),
    /// The beginning of a body that was announced to be longer.
    BreakOff,
    /// No JSON.
    Nonsense,
    /// Two MiB, announced or not.
    Huge {
        /// Whether there is a Content-Length.
        announced: bool,
    },
    /// To another address.
    Redirect(String),
    /// Right in form, with the Authorization header in every text.
    Echo,
    /// A refusal with the Authorization header in its message.
    EchoRefusal,
    /// Right in form, with control characters and Markdown in every text.
    Controls,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its path, as sent.
    pub path: String,
    /// Its Authorization header.
    pub authorization: Option<String>,
    /// Its `lang` header.
    pub lang: Option<String>,
}

/// A stand-in that answers until it is dropped.
pub struct Api {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// By path; of several the first is used up, the last stays.
    answers: Mutex<HashMap<String, VecDeque<Answer>>>,
    calls: Mutex<Vec<Call>>,
    gate: watch::Sender<bool>,
    /// Questions for contracts under way, and the most that ever were.
    under_way: watch::Sender<(usize, usize)>,
}

impl Api {
    /// Starts one on a free port of this machine.
    pub async fn start() -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port")
    }

    /// Starts one at an address.
    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            // Connections end with this task.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                connections.spawn(async move {
                    let serving = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is its own affair.
                    let _ = serving.serve_connection(TokioIo::new(stream), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, state, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a coordinator is told.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How questions for the contract of an endpoint, or of an app (a number), are answered from now on: each in
    /// turn, the last for ever.
    pub fn answer_contract(&self, place: &str, answers: impl IntoIterator<Item = Answer>) {
        self.answer_path(&contract_path(place), answers);
    }

    /// The same for its price.
    pub fn answer_price(&self, endpoint: &str, answers: impl IntoIterator<Item = Answer>) {
        self.answer_path(&format!("{PRICE}{endpoint}"), answers);
    }

    /// The same for any path.
    pub fn answer_path(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        let answers = answers.into_iter().collect();
        self.state.answers.lock().unwrap().insert(path.to_owned(), answers);
    }

    /// Lets the gated go on.
    pub fn open(&self) {
        self.state.gate.send_replace(true);
    }

    /// Waits until so many questions for contracts are under way.
    pub async fn until_under_way(&self, count: usize) {
        let mut under_way = self.state.under_way.subscribe();
        under_way.wait_for(|(now, _)| *now >= count).await.expect("the stand-in runs");
    }

    /// Every question so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().unwrap().clone()
    }

    /// How often the contract of an endpoint or app was asked for.
    pub fn contract_calls(&self, place: &str) -> usize {
        let path = contract_path(place);
        self.calls().iter().filter(|call| call.path == path).count()
    }

    /// How often contracts were asked for, of all models together.
    pub fn all_contract_calls(&self) -> usize {
        self.calls().iter().filter(|call| is_contract(&call.path)).count()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Endpoints that have a contract here.
pub fn endpoints() -> Vec<String> {
    documented()["models"].as_object().expect("the file is ours").keys().cloned().collect()
}

fn contract_path(place: &str) -> String {
    if place.contains('/') { format!("{DETAIL}{place}") } else { format!("{APP}{place}") }
}

fn is_contract(path: &str) -> bool {
    path.starts_with(DETAIL) || path.starts_with(APP)
}

fn documented() -> Value {
    serde_json::from_str(include_str!("api/contracts.json")).expect("the file is ours")
}

/// Counts a question for a contract as under way until it is dropped.
struct UnderWay(Arc<State>);

impl UnderWay {
    fn new(state: &Arc<State>) -> Self {
        state.under_way.send_modify(|(now, most)| {
            *now += 1;
            *most = (*most).max(*now);
        });
        Self(Arc::clone(state))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|(now, _)| *now -= 1);
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let header = |name| {
        request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let authorization = header("authorization");
    let call = Call { path: path.clone(), authorization: authorization.clone(), lang: header("lang") };
    state.calls.lock().unwrap().push(call);
    let under_way = is_contract(&path).then(|| UnderWay::new(&state));
    let planned = {
        let mut answers = state.answers.lock().unwrap();
        let answers = answers.get_mut(&path);
        answers.and_then(|list| if list.len() > 1 { list.pop_front() } else { list.front().cloned() })
    };
    let echo = authorization.unwrap_or_default();
    let response = match planned.unwrap_or(Answer::Right) {
        Answer::Right => right(&path),
        Answer::Gated => {
            state.gate.subscribe().wait_for(|open| *open).await.expect("the stand-in runs");
            right(&path)
        }
        Answer::Together(count) => {
            let mut most = state.under_way.subscribe();
            most.wait_for(|(_, most)| *most >= count).await.expect("the stand-in runs");
            right(&path)
        }
        Answer::Silence => std::future::pending().await,
        Answer::Status(status, retry_after) => {
            let mut response = respond(StatusCode::from_u16(status).expect("a status"), full(""));
            if let Some(seconds) = retry_after {
                response.headers_mut().insert("retry-after", seconds.parse().expect("a header"));
            }
            response
        }
        Answer::Code(code) => ok(&json!({"code": code, "message": "请稍后再试", "data": null})),
        Answer::Json(value) => ok(&value),
        Answer::BreakOff => {
            let parts =
                [Ok(Frame::data(Bytes::from("{\"code\": 20000, \"da"))), Err(io::Error::other("cut"))];
            let mut response = respond(StatusCode::OK, StreamBody::new(tokio_stream::iter(parts)).boxed());
            response.headers_mut().insert("content-length", 1_000.into());
            response
        }
        Answer::Nonsense => respond(StatusCode::OK, full("<html>502 Bad Gateway</html>")),
        Answer::Huge { announced: true } => respond(StatusCode::OK, full(" ".repeat(2 << 20))),
        Answer::Huge { announced: false } => {
            let part = Bytes::from(" ".repeat(64 << 10));
            let parts = (0..32).map(move |_| Ok(Frame::data(part.clone())));
            respond(StatusCode::OK, StreamBody::new(tokio_stream::iter(parts)).boxed())
        }
        Answer::Redirect(to) => {
            let mut response = respond(StatusCode::FOUND, full(""));
            response.headers_mut().insert("location", to.parse().expect("a header"));
            response
        }
        Answer::Echo => ok(&filled(&path, &echo)),
        Answer::EchoRefusal => ok(&json!({"code": 20003, "message": format!("bad header {echo}")})),
        Answer::Controls => ok(&filled(&path, CONTROLS)),
    };
    drop(under_way);
    Ok(response)
}

/// The documented reply.
fn right(path: &str) -> Response<Body> {
    let documented = documented();
    let found = if let Some(endpoint) = path.strip_prefix(DETAIL) {
        documented["models"]
            .get(endpoint)
            .map(|model| json!({"code": 20000, "message": "Ok", "data": model["data"]}))
    } else if let Some(endpoint) = path.strip_prefix(PRICE) {
        let price = documented["models"].get(endpoint).map(|model| &model["price"]);
        price.map(|price| match price {
            Value::Null => json!({"code": 20000, "message": "Ok", "data": {}}),
            price => json!({"code": 20000, "message": "Ok", "data": {"simple_price_text": price}}),
        })
    } else {
        let number = path.strip_prefix(APP).unwrap_or_default();
        documented["apps"].get(number).map(|app| json!({"code": 20000, "message": "Ok", "data": app}))
    };
    found.map_or_else(
        || respond(StatusCode::NOT_FOUND, full(json!({"code": 20004, "message": "not found"}).to_string())),
        |reply| ok(&reply),
    )
}

/// A reply of the right form with `text` wherever a text can be.
fn filled(path: &str, text: &str) -> Value {
    let field = BTreeMap::from([
        ("field_name", json!(format!("x{text}"))),
        ("variable_name", json!(format!("x{text}"))),
        ("field_label", json!(text)),
        ("field_type", json!(text)),
        ("field_value", json!(text)),
        ("field_options", json!({"values": [text, {"value": text}, "fine"], "min": text, "max": text})),
        ("required", json!(text)),
    ]);
    let known = json!({"field_name": "resolution", "variable_name": "resolution", "field_type": "combo",
        "field_label": text, "field_value": text, "field_options": {"values": [text, "fine"]}});
    if path.starts_with(PRICE) {
        return json!({"code": 20000, "message": text, "data": {"simple_price_text": text}});
    }
    json!({"code": 20000, "message": text, "data": {
        "display_name": text, "name": text, "input_params": [field, known], "input_nodes": [field, known],
    }})
}

fn ok(value: &Value) -> Response<Body> {
    respond(StatusCode::OK, full(value.to_string()))
}

fn respond(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
    response
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}
