//! Where a model's contract is found, from its name.

use std::fmt;

use super::{Source, Unavailable};
use crate::core::catalog::Catalog;

/// The longest endpoint, in bytes.
const MAX_ENDPOINT_BYTES: usize = 256;
/// The longest number of an app, in digits.
const MAX_APP_DIGITS: usize = 20;

impl Source {
    /// Where the contract of `model` (as planned) is found: a model of the catalogue at its endpoint, else
    /// `vendor/endpoint` at itself, else a number as an AI app. Fails with [`Unavailable::NoSource`] for any
    /// other, and for an endpoint that would be no plain path below its folder.
    pub fn of(model: &str, catalog: &Catalog) -> Result<Self, Unavailable> {
        let place = catalog.model(model).map_or(model, |known| &known.endpoint);
        if is_endpoint(place) {
            Ok(Self::Endpoint(place.to_owned()))
        } else if is_app(place) {
            Ok(Self::App(place.to_owned()))
        } else {
            Err(Unavailable::NoSource)
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(endpoint) => f.write_str(endpoint),
            Self::App(number) => write!(f, "app {number}"),
        }
    }
}

fn is_endpoint(text: &str) -> bool {
    text.contains('/')
        && text.len() <= MAX_ENDPOINT_BYTES
        && text.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
        && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn is_app(text: &str) -> bool {
    (1..=MAX_APP_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_then_an_endpoint_then_an_app() {
        let catalog = Catalog::builtin();
        let of = |model: &str| Source::of(model, &catalog);
        for model in catalog.models() {
            assert_eq!(of(&model.slug), Ok(Source::Endpoint(model.endpoint.clone())));
        }
        assert_eq!(of("my-vendor/模型"), Ok(Source::Endpoint("my-vendor/模型".into())));
        assert_eq!(of("a/b/c"), Ok(Source::Endpoint("a/b/c".into())));
        assert_eq!(of("44306"), Ok(Source::App("44306".into())));
        // Two names of one model are one source.
        assert_eq!(of("wan-2-7-official/text-to-video"), of("wan27-t2v"));
    }

    #[test]
    fn what_would_leave_its_folder_is_no_endpoint() {
        let catalog = Catalog::builtin();
        let (long, digits) = ("a/".to_owned() + &"b".repeat(255), "1".repeat(21));
        let bad = [
            "", "nothing", "/", "a/", "/a", "a//b", "a/..", "../a", "./a", "a/./b", "a /b", "a/b\n",
            "a/\u{0}", "１２", "12a", "-1", &long, &digits,
        ];
        for model in bad {
            assert_eq!(Source::of(model, &catalog), Err(Unavailable::NoSource), "{model:?}");
        }
    }
}
