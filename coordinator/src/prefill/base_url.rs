//! The address that models are looked up at: checked once, then only added to.

use std::net::IpAddr;

use reqwest::Url;

use crate::core::contract::Source;

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--contract-base-url {url}: {problem}")]
pub struct BadBaseUrl {
    url: String,
    problem: &'static str,
}

impl BadBaseUrl {
    /// `text` may carry a password.
    pub(super) fn new(text: &str, problem: &'static str) -> Self {
        let url = if text.contains('@') { "(not shown: it may have a password in it)" } else { text };
        Self { url: url.escape_debug().to_string(), problem }
    }
}

/// `https://host[:port][/path]`.
#[derive(Clone, Debug)]
pub(super) struct BaseUrl(Url);

impl BaseUrl {
    /// Reads it. Plain HTTP shows the key to the network, so that it is for this machine only, unless `insecure`.
    pub(super) fn parse(text: &str, insecure: bool) -> Result<Self, BadBaseUrl> {
        let bad = |problem| BadBaseUrl::new(text, problem);
        let url = Url::parse(text.trim())
            .map_err(|_| bad("this is no address; give one such as https://api.example.com"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(bad("only https (and http to this machine) is understood; begin it with https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("leave out user name and password; models are looked up with the API key alone"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("leave out what begins with ? or #; paths are added to the address"));
        }
        let base = Self(url);
        if base.0.scheme() == "http" && !base.is_loopback() && !insecure {
            return Err(bad(
                "plain http to another machine shows the API key to the network; use https, or --insecure to allow it",
            ));
        }
        Ok(base)
    }

    /// Whether it is this machine, by its name.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// Whether another address is at the same scheme, host and port.
    pub(super) fn is_same_place(one: &Url, other: &Url) -> bool {
        one.scheme() == other.scheme()
            && one.host() == other.host()
            && one.port_or_known_default() == other.port_or_known_default()
    }

    /// Where a contract is.
    pub(super) fn contract(&self, source: &Source) -> Url {
        match source {
            Source::Endpoint(endpoint) => self.below(&["x", "v1", "modelzoo", "detail"], endpoint),
            Source::App(number) => self.below(&["x", "v1", "webapp"], number),
        }
    }

    /// Where a price is, for what has one.
    pub(super) fn price(&self, source: &Source) -> Option<Url> {
        match source {
            Source::Endpoint(endpoint) => Some(self.below(&["x", "v1", "modelzoo", "price_table"], endpoint)),
            Source::App(_) => None,
        }
    }

    /// Each segment is percent-encoded, so that none leaves its folder or begins a query.
    fn below(&self, folders: &[&str], rest: &str) -> Url {
        let mut url = self.0.clone();
        // Fails only for addresses that no base can be, which http and https are not.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(folders).extend(rest.split('/'));
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract_at(base: &str, endpoint: &str) -> String {
        BaseUrl::parse(base, false).unwrap().contract(&Source::Endpoint(endpoint.into())).to_string()
    }

    #[test]
    fn paths_are_added_below_the_base() {
        let detail = "https://api.example.com/x/v1/modelzoo/detail/vendor/model";
        for base in ["https://api.example.com", "https://api.example.com/", " https://api.example.com\n"] {
            assert_eq!(contract_at(base, "vendor/model"), detail);
        }
        let base = BaseUrl::parse("http://127.0.0.1:81/api/v2/", false).unwrap();
        assert_eq!(
            base.contract(&Source::App("44306".into())).as_str(),
            "http://127.0.0.1:81/api/v2/x/v1/webapp/44306"
        );
        assert_eq!(
            base.price(&Source::Endpoint("a/b".into())).unwrap().as_str(),
            "http://127.0.0.1:81/api/v2/x/v1/modelzoo/price_table/a/b"
        );
        assert_eq!(base.price(&Source::App("44306".into())), None);
    }

    #[test]
    fn no_endpoint_leaves_the_base() {
        let base = "https://api.example.com/api";
        for endpoint in [
            "a/b?x=1",
            "a/b#c",
            "%2e%2e/%2e%2e",
            "..\\../b",
            "a\\..\\..\\b/c",
            "a:1@evil.example/b",
            "模/型",
            ".%2e/b",
            "a/;b",
            "@evil/b",
        ] {
            let url = Url::parse(&contract_at(base, endpoint)).unwrap();
            assert_eq!(url.host_str(), Some("api.example.com"), "{endpoint}");
            assert!(url.path().starts_with("/api/x/v1/modelzoo/detail/"), "{url}");
            assert_eq!(url.path_segments().unwrap().count(), 5 + endpoint.split('/').count(), "{url}");
            assert_eq!((url.query(), url.fragment()), (None, None), "{url}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_says_what_to_do() {
        for (base, part) in [
            ("", "no address"),
            ("api.example.com", "no address"),
            ("ftp://api.example.com", "begin it with https://"),
            ("file:///etc", "begin it with https://"),
            ("https://api.example.com?x=1", "leave out"),
            ("https://api.example.com/#x", "leave out"),
            ("https://user@api.example.com", "leave out user name"),
            ("http://api.example.com", "use https"),
            ("http://10.0.0.1", "use https"),
            ("http://localhost.example.com", "use https"),
            ("http://127.0.0.1.example.com", "use https"),
        ] {
            let error = BaseUrl::parse(base, false).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = BaseUrl::parse("https://user:hunter2@api.example.com", false).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn plain_http_is_for_this_machine_unless_allowed() {
        for base in ["http://localhost:1", "http://127.9.9.9", "http://[::1]:80", "http://LOCALHOST"] {
            assert!(BaseUrl::parse(base, false).is_ok_and(|base| base.is_loopback()), "{base}");
        }
        assert!(BaseUrl::parse("http://10.0.0.1", true).is_ok());
    }
}
