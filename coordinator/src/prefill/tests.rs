use std::sync::Mutex;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::core::contract::MAX_LINE_CHARS;

const KEY: &str = "sk-canary-7f3a";
const PRICE_OK: &str = r#"{"code":20000,"data":{"simple_price_text":"0.80 a picture"}}"#;

/// A server on this machine whose replies are bytes, written by the test.
struct Server {
    base: String,
    /// The head of each request.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `reply` gets a request's path and how often that path was asked for before.
    async fn start(reply: impl Fn(&str, usize) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::<String>::new()));
        let noted = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8(head).unwrap();
                let path = path_of(&head).to_owned();
                let before = noted.lock().unwrap().iter().filter(|head| path_of(head) == path).count();
                noted.lock().unwrap().push(head);
                let reply = reply(&path, before);
                tokio::spawn(async move {
                    // The client may have seen enough.
                    let _ = stream.write_all(&reply).await;
                });
            }
        });
        Self { base, heads }
    }

    /// Serves prices rightly and contracts as given.
    async fn of_contracts(reply: impl Fn(&str, usize) -> Vec<u8> + Send + 'static) -> Self {
        Self::start(move |path, before| {
            if path.contains("/price_table/") { http(200, "", PRICE_OK) } else { reply(path, before) }
        })
        .await
    }

    fn models(&self, keep: Duration) -> Models {
        Models::new(Options { base_url: self.base.clone(), keep, insecure: false }).unwrap()
    }

    async fn find(&self, endpoint: &str) -> Found {
        find(&self.models(Duration::ZERO), endpoint, false).await
    }

    fn calls(&self, part: &str) -> usize {
        self.heads.lock().unwrap().iter().filter(|head| path_of(head).contains(part)).count()
    }
}

fn path_of(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

fn key() -> Key {
    Key::new(KEY).unwrap()
}

fn endpoint(name: &str) -> Source {
    Source::Endpoint(name.into())
}

async fn find(models: &Models, name: &str, refresh: bool) -> Found {
    models.find(vec![endpoint(name)], &key(), refresh).await.remove(&endpoint(name)).unwrap()
}

fn http(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
        .into()
}

fn right() -> Vec<u8> {
    http(
        200,
        "",
        r#"{"code":20000,"data":{"display_name":"A model","input_params":[{"field_name":"prompt"}]}}"#,
    )
}

#[tokio::test]
async fn contract_and_price_are_asked_for_as_documented() {
    let server = Server::of_contracts(|_, _| right()).await;
    let found = server.find("vendor/model").await;
    assert_eq!(found.contract.unwrap().name, "A model");
    assert_eq!(found.price.as_deref(), Some("0.80 a picture"));
    let heads = server.heads.lock().unwrap().clone();
    let mut paths: Vec<_> = heads.iter().map(|head| path_of(head)).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/x/v1/modelzoo/detail/vendor/model", "/x/v1/modelzoo/price_table/vendor/model"]);
    for head in heads {
        let head = head.to_ascii_lowercase();
        for line in ["authorization: bearer sk-canary-7f3a", "lang: zh", "accept: application/json"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
        }
        assert!(head.contains("\r\nuser-agent: muster/"), "{head}");
        assert!(!head.contains("cookie"), "{head}");
    }
}

#[tokio::test]
async fn an_app_has_its_own_path_and_no_price() {
    let app = r#"{"data":{"id":44306,"name":"An app","input_nodes":[]}}"#;
    let server = Server::start(move |_, _| http(200, "set-cookie: a=b\r\n", app)).await;
    let source = Source::App("44306".into());
    let found = server.models(Duration::ZERO).find(vec![source.clone()], &key(), false).await;
    assert_eq!(found[&source].contract.as_ref().unwrap().name, "An app");
    assert_eq!(found[&source].price, None);
    assert_eq!((server.calls("/x/v1/webapp/44306"), server.calls("/")), (1, 1));
}

#[tokio::test]
async fn each_way_of_going_wrong_has_its_name_and_harms_no_other_model() {
    let padded = " ".repeat((1 << 20) + 1);
    let chunked = format!(
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{padded}\r\n0\r\n\r\n",
        padded.len()
    );
    let too_large = Unavailable::TooLarge { limit: 1 << 20 };
    let refused = Unavailable::Refused { code: 20_003, message: "no such model".into() };
    let cases: Vec<(&str, Vec<u8>, Unavailable)> = vec![
        ("v/unauthorized", http(401, "", ""), Unavailable::KeyRefused),
        ("v/forbidden", http(403, "", "<html>"), Unavailable::KeyRefused),
        ("v/missing", http(404, "", ""), Unavailable::Http { status: 404 }),
        ("v/server-error", http(500, "", &padded), Unavailable::Http { status: 500 }),
        ("v/refused", http(200, "", r#"{"code":20003,"message":"no such model"}"#), refused),
        ("v/html", http(200, "", "<html>"), Unavailable::Malformed),
        ("v/empty", http(200, "", ""), Unavailable::Malformed),
        (
            "v/not-utf8",
            http(200, "", "?").into_iter().map(|b| if b == b'?' { 0xff } else { b }).collect(),
            Unavailable::Malformed,
        ),
        ("v/announced", http(200, "", &padded), too_large.clone()),
        ("v/in-parts", chunked.into(), too_large),
        (
            "v/broken-off",
            b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\n{\"code\"".to_vec(),
            Unavailable::Unreachable,
        ),
        ("v/no-http", b"SSH-2.0-OpenSSH\r\n".to_vec(), Unavailable::Unreachable),
        ("v/hung-up", Vec::new(), Unavailable::Unreachable),
        ("v/elsewhere", http(302, "location: http://localhost:1/\r\n", ""), Unavailable::Redirected),
    ];
    let replies: BTreeMap<&str, Vec<u8>> =
        cases.iter().map(|(name, reply, _)| (*name, reply.clone())).collect();
    let server = Server::of_contracts(move |path, _| {
        let name = path.trim_start_matches("/x/v1/modelzoo/detail/");
        replies.get(name).cloned().unwrap_or_else(right)
    })
    .await;
    let mut sources: Vec<_> = cases.iter().map(|(name, ..)| endpoint(name)).collect();
    sources.extend([endpoint("v/whole"), endpoint("v/whole")]);
    let found = server.models(Duration::ZERO).find(sources, &key(), false).await;
    assert_eq!(found.len(), cases.len() + 1);
    for (name, _, why) in &cases {
        assert_eq!(found[&endpoint(name)].contract.as_ref(), Err(why), "{name}");
        assert_eq!(server.calls(&format!("/detail/{name}")), 1, "{name} is not asked again");
        assert!(found[&endpoint(name)].price.is_some(), "{name}");
    }
    assert!(found[&endpoint("v/whole")].contract.is_ok());
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let models = Models::new(Options { base_url, keep: Duration::ZERO, insecure: false }).unwrap();
    let found = find(&models, "v/m", false).await;
    assert_eq!((found.contract, found.price), (Err(Unavailable::Unreachable), None));
}

#[tokio::test]
async fn what_the_api_calls_retryable_is_asked_again() {
    for busy in [
        http(429, "retry-after: 0\r\n", ""),
        http(402, "", ""),
        http(200, "", r#"{"code":50600,"message":"busy"}"#),
        http(500, "", r#"{"code":20049}"#),
        http(429, "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", ""),
    ] {
        let server =
            Server::of_contracts(move |_, before| if before == 0 { busy.clone() } else { right() }).await;
        assert!(server.find("v/m").await.contract.is_ok());
        assert_eq!(server.calls("/detail/"), 2);
    }
}

#[tokio::test]
async fn tries_are_bounded_and_a_long_retry_after_is_not_waited_for() {
    let server = Server::of_contracts(|_, _| http(429, "", r#"{"code":30015}"#)).await;
    let busy = Unavailable::Busy { status: 429, code: Some(30_015) };
    assert_eq!(server.find("v/m").await.contract, Err(busy));
    assert_eq!(server.calls("/detail/"), 3);
    for wait in ["3600", "18446744073709551616", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        let reply = http(429, &format!("retry-after: {wait}\r\n"), "");
        let server = Server::of_contracts(move |_, _| reply.clone()).await;
        let busy = Unavailable::Busy { status: 429, code: None };
        assert_eq!(server.find("v/m").await.contract, Err(busy));
        assert_eq!(server.calls("/detail/"), 1, "{wait}");
    }
}

#[tokio::test]
async fn a_price_that_fails_is_not_there_and_not_asked_for_again() {
    for reply in [http(429, "retry-after: 0\r\n", ""), http(500, "", ""), http(200, "", "?"), Vec::new()] {
        let server = Server::start(
            move |path, _| {
                if path.contains("/price_table/") { reply.clone() } else { right() }
            },
        )
        .await;
        let found = server.find("v/m").await;
        assert!(found.contract.is_ok());
        assert_eq!(found.price, None);
        assert_eq!(server.calls("/price_table/"), 1);
    }
}

#[tokio::test]
async fn redirects_stay_where_the_key_was_meant_to_go() {
    let elsewhere = Server::start(|_, _| right()).await;
    let to = format!("location: {}/x\r\n", elsewhere.base);
    let server = Server::of_contracts(move |path, _| match path {
        "/x/v1/modelzoo/detail/v/within" => http(302, "location: /moved\r\n", ""),
        "/x/v1/modelzoo/detail/v/loop" => http(302, "location: /x/v1/modelzoo/detail/v/loop\r\n", ""),
        "/moved" => right(),
        _ => http(307, &to, ""),
    })
    .await;
    assert!(server.find("v/within").await.contract.is_ok());
    assert_eq!(server.find("v/loop").await.contract, Err(Unavailable::Redirected));
    assert_eq!(server.calls("/detail/v/loop"), 4);
    assert_eq!(server.find("v/elsewhere").await.contract, Err(Unavailable::Redirected));
    assert!(elsewhere.heads.lock().unwrap().is_empty(), "nothing was asked elsewhere");
}

#[tokio::test]
async fn a_key_that_comes_back_goes_no_further() {
    let long = "x".repeat(MAX_LINE_CHARS - 5);
    let echo = format!(
        r#"{{"code":20000,"data":{{"simple_price_text":"{long}{KEY}","display_name":"{KEY}","input_params":[{{"field_name":"a",
        "field_value":"{long}Bearer {KEY}","field_options":{{"values":["{KEY}"]}}}}]}}}}"#
    );
    let refusal = format!(r#"{{"code":20003,"message":"invalid token {KEY}"}}"#);
    let server =
        Server::start(move |path, _| http(200, "", if path.ends_with("refusal") { &refusal } else { &echo }))
            .await;
    for name in ["v/echo", "v/refusal"] {
        let found = format!("{:?}", server.find(name).await);
        assert!(!found.contains("sk-") && found.contains("***"), "{found}");
    }
}

#[tokio::test]
async fn what_was_found_is_good_for_the_same_key_until_it_ends() {
    let server = Server::of_contracts(|_, _| right()).await;
    let models = server.models(Duration::from_secs(300));
    for (refresh, calls) in [(false, 1), (false, 1), (true, 2), (false, 2)] {
        assert!(find(&models, "v/m", refresh).await.contract.is_ok());
        assert_eq!(server.calls("/detail/"), calls);
    }
    let other = Key::new("sk-other").unwrap();
    models.find(vec![endpoint("v/m")], &other, false).await;
    assert_eq!(server.calls("/detail/"), 3, "another key may see another contract");
    let none = server.models(Duration::ZERO);
    for calls in [4, 5] {
        find(&none, "v/m", false).await;
        assert_eq!(server.calls("/detail/"), calls);
    }
}
