//! What a reply of the API means as a whole: here it is, later, or no.
//!
//! The other side is not trusted: any status, any body. What it does not do: wait or ask again.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{
    Unavailable,
    text::{Hide, MAX_LINE_CHARS, line},
};
use crate::core::json::{self, Json};

/// The code of a reply that has what was asked for.
const CODE_OK: i64 = 20_000;

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// What was asked for.
    Found(T),
    /// Not now ([`Unavailable::Busy`]): the same question may be answered later.
    Retry(Unavailable),
    /// No, and asking again would not change it.
    Failed(Unavailable),
}

/// The members of a JSON object.
pub(super) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Looks at a reply as a whole. `code_needed` where the documented form has a code.
pub(super) fn classify<'a>(
    status: u16,
    body: &'a [u8],
    code_needed: bool,
    hide: Hide<'_>,
) -> Answer<Members<'a>> {
    if matches!(status, 401 | 403) {
        return Answer::Failed(Unavailable::KeyRefused);
    }
    let members = members_of(body);
    let code = members.as_ref().map_or(Code::None, |members| Code::of(members, hide));
    if matches!(status, 429 | 402) || matches!(code, Code::Number(code) if is_retryable(code)) {
        return Answer::Retry(Unavailable::Busy { status, code: code.number() });
    }
    if status != 200 {
        return Answer::Failed(Unavailable::Http { status });
    }
    let Some(members) = members else { return Answer::Failed(Unavailable::Malformed) };
    match code {
        Code::Number(CODE_OK) => Answer::Found(members),
        Code::None if !code_needed => Answer::Found(members),
        Code::Number(401 | 403) => Answer::Failed(Unavailable::KeyRefused),
        Code::Number(code) => {
            let text = ["message", "msg"].into_iter().find_map(|key| text_of(&members, key));
            let message = line(&text.unwrap_or_default(), MAX_LINE_CHARS, hide);
            Answer::Failed(Unavailable::Refused { code, message })
        }
        Code::None | Code::Unreadable => Answer::Failed(Unavailable::Malformed),
    }
}

/// A member's text, if it is one.
pub(super) fn text_of(members: &Members<'_>, key: &str) -> Option<String> {
    match json::view(members.get(key)?) {
        Ok(Json::Text(text)) => Some(text.into_owned()),
        _ => None,
    }
}

fn members_of(body: &[u8]) -> Option<Members<'_>> {
    let text = std::str::from_utf8(body).ok()?;
    let raw = json::parse(text.strip_prefix('\u{feff}').unwrap_or(text)).ok()?;
    match json::view(raw) {
        Ok(Json::Object(members)) => Some(members),
        _ => None,
    }
}

/// "HTTP 429 and 402, and codes …", as the API documents it.
fn is_retryable(code: i64) -> bool {
    matches!(
        code,
        20_049..=20_051 | 30_015 | 30_016 | 30_018 | 30_039 | 30_040 | 50_600..=50_604
    )
}

#[derive(Clone, Copy)]
enum Code {
    None,
    Number(i64),
    Unreadable,
}

impl Code {
    fn of(members: &Members<'_>, hide: Hide<'_>) -> Self {
        let Some(raw) = members.get("code") else { return Self::None };
        let read = |text: &str| {
            // A key that is a number could come back as a code.
            if hide.is_in(text) {
                Self::Unreadable
            } else {
                text.parse().map_or(Self::Unreadable, Self::Number)
            }
        };
        match json::view(raw) {
            Ok(Json::Null) => Self::None,
            Ok(Json::Number(text)) => read(text),
            Ok(Json::Text(text)) => read(text.trim()),
            _ => Self::Unreadable,
        }
    }

    fn number(self) -> Option<i64> {
        match self {
            Self::Number(code) => Some(code),
            Self::None | Self::Unreadable => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, body: &str) -> Answer<()> {
        match classify(status, body.as_bytes(), true, Hide::key("sk-secret")) {
            Answer::Found(_) => Answer::Found(()),
            Answer::Retry(why) => Answer::Retry(why),
            Answer::Failed(why) => Answer::Failed(why),
        }
    }

    #[test]
    fn the_documented_codes_are_retryable_and_no_others() {
        let codes = [
            20_049, 20_050, 20_051, 30_015, 30_016, 30_018, 30_039, 30_040, 50_600, 50_601, 50_602, 50_603,
            50_604,
        ];
        for code in codes {
            for status in [200, 400, 500] {
                let busy = Unavailable::Busy { status, code: Some(code) };
                assert_eq!(outcome(status, &format!(r#"{{"code":{code}}}"#)), Answer::Retry(busy));
            }
            for other in [code - 1, code + 1] {
                if !codes.contains(&other) {
                    let refused = Unavailable::Refused { code: other, message: String::new() };
                    assert_eq!(outcome(200, &format!(r#"{{"code":{other}}}"#)), Answer::Failed(refused));
                }
            }
        }
        for status in [429, 402] {
            assert_eq!(outcome(status, "<html>"), Answer::Retry(Unavailable::Busy { status, code: None }));
        }
    }

    #[test]
    fn other_replies_are_named() {
        for (status, body, why) in [
            (401, "", Unavailable::KeyRefused),
            (403, r#"{"code":20049}"#, Unavailable::KeyRefused),
            (200, r#"{"code":401}"#, Unavailable::KeyRefused),
            (500, r#"{"code":20000}"#, Unavailable::Http { status: 500 }),
            (404, "", Unavailable::Http { status: 404 }),
            (204, "", Unavailable::Http { status: 204 }),
            (200, "", Unavailable::Malformed),
            (200, "[]", Unavailable::Malformed),
            (200, "{}", Unavailable::Malformed),
            (200, r#"{"code":[20000]}"#, Unavailable::Malformed),
            (200, r#"{"code":1e4}"#, Unavailable::Malformed),
            (200, r#"{"code":20000"#, Unavailable::Malformed),
        ] {
            assert_eq!(outcome(status, body), Answer::Failed(why), "{status} {body}");
        }
        let body = r#"{"code":20003,"message":"no\u001b[31m such\nmodel for sk-\u0073ecret"}"#;
        let message = "no\u{fffd}[31m such model for ***".to_owned();
        assert_eq!(outcome(200, body), Answer::Failed(Unavailable::Refused { code: 20_003, message }));
        assert_eq!(outcome(200, r#"{"code":20000}"#), Answer::Found(()));
        assert_eq!(outcome(200, "\u{feff}{\"code\":\"20000\"}"), Answer::Found(()));
    }
}
