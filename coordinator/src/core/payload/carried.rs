//! Reads how a batch or a task is to be carried out from its JSON: limits of time, retries, when to give up.
//!
//! Says of every value what is wrong with its form; the bounds are those of `options`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::violation::Violations;
use super::{keys, nearest_of};
use crate::core::integer::Integer;
use crate::core::json::{self, Json};
use crate::core::options::{self, GivenOptions, GivenRetry, OnDisconnect, RetryPolicy, read_time};

/// The options among the members of a batch; others are none of this module's business.
pub(super) fn batch(members: &BTreeMap<String, &RawValue>, violations: &mut Violations) -> GivenOptions {
    let mut given = GivenOptions::default();
    for key in keys::OPTION_KEYS {
        let Some(raw) = members.get(key) else { continue };
        match key {
            "time_limit" => given.time_limit = time(raw, key, violations),
            "queue_time_limit" => given.queue_time_limit = time(raw, key, violations),
            "cancel_grace" => given.cancel_grace = time(raw, key, violations),
            "retry" => given.retry = policy(raw, key, violations),
            "max_failures" => given.max_failures = whole(raw, key, violations),
            _ => given.on_disconnect = on_disconnect(raw, key, violations),
        }
    }
    given
}

/// A task's own limit of time.
pub(super) fn task_time_limit(raw: &RawValue, field: &str, violations: &mut Violations) -> Option<u64> {
    let given = time(raw, field, violations)?;
    options::time_limit(given, field, violations)
}

/// A task's own retries.
pub(super) fn retry(raw: &RawValue, field: &str, violations: &mut Violations) -> Option<RetryPolicy> {
    policy(raw, field, violations)?.check(field, violations)
}

/// A time as text or as a number of seconds; null and `""` are absent.
fn time(raw: &RawValue, field: &str, violations: &mut Violations) -> Option<i128> {
    let read = match json::view(raw) {
        Ok(Json::Null) => return None,
        Ok(Json::Text(text)) if text.is_empty() => return None,
        Ok(Json::Text(text)) => read_time(&text),
        Ok(Json::Number(number)) => match number.strip_prefix('-') {
            Some(number) => read_time(number).map(|ms| -ms),
            None => read_time(number),
        },
        Ok(Json::Bool(_) | Json::List(_) | Json::Object(_)) | Err(_) => None,
    };
    if read.is_none() {
        violations.add(field, "is no time; send \"90s\", \"5m\", \"2h\", \"1d\" or a number of seconds");
    }
    read
}

/// A whole number; null is absent.
fn whole(raw: &RawValue, field: &str, violations: &mut Violations) -> Option<i64> {
    let read = match json::view(raw) {
        Ok(Json::Null) => return None,
        Ok(Json::Text(text)) if text.is_empty() => return None,
        Ok(Json::Text(text)) => Integer::from_text(&text),
        // Cut to a whole one it would mean something else.
        Ok(Json::Number(number)) if number.contains(['.', 'e', 'E']) => Integer::Unreadable,
        Ok(Json::Number(number)) => Integer::from_number(number),
        Ok(Json::Bool(_) | Json::List(_) | Json::Object(_)) | Err(_) => Integer::Unreadable,
    };
    match read {
        Integer::Value(value) => Some(value),
        Integer::Unreadable => {
            violations.add(field, "is no whole number; send one, or leave it out");
            None
        }
    }
}

fn on_disconnect(raw: &RawValue, field: &str, violations: &mut Violations) -> Option<OnDisconnect> {
    match json::view(raw) {
        Ok(Json::Null) => return None,
        Ok(Json::Text(text)) => match text.as_ref() {
            "" => return None,
            "continue" => return Some(OnDisconnect::Continue),
            "stop" => return Some(OnDisconnect::Stop),
            _ => {}
        },
        Ok(Json::Bool(_) | Json::Number(_) | Json::List(_) | Json::Object(_)) | Err(_) => {}
    }
    violations.add(field, "is neither \"continue\" nor \"stop\"; send one of them, or leave it out");
    None
}

/// An object of a policy's fields; null and `""` (an empty cell of a table) are absent.
fn policy(raw: &RawValue, field: &str, violations: &mut Violations) -> Option<GivenRetry> {
    let members = match json::view(raw) {
        Ok(Json::Null) => return None,
        Ok(Json::Text(text)) if text.is_empty() => return None,
        Ok(Json::Object(members)) => members,
        Ok(_) | Err(_) => {
            let description =
                "is no object; send {\"max_attempts\": 3, \"on\": [\"signal\", 75]}, or leave it out";
            violations.add(field, description);
            return None;
        }
    };
    let mut given = GivenRetry::default();
    let mut complete = true;
    for (key, raw) in &members {
        let at = format!("{field}.{key}");
        match key.as_str() {
            "max_attempts" => {
                given.max_attempts = whole(raw, &at, violations);
                // Null is the same as missing, which is for the bounds to say.
                complete &= given.max_attempts.is_some() || raw.get() == "null";
            }
            "on" => match reasons(raw, &at, violations) {
                Some(on) => given.on = on,
                None => complete = false,
            },
            "backoff" => given.backoff = time(raw, &at, violations),
            "max_backoff" => given.max_backoff = time(raw, &at, violations),
            unknown => {
                complete = false;
                let nearest = nearest_of(unknown, keys::RETRY_KEYS).unwrap_or_default();
                violations.add(
                    at,
                    format!("is no known key; the nearest one is {nearest}: rename it, or leave it out"),
                );
            }
        }
    }
    // What was said of a part is not to be said again of the whole.
    complete.then_some(given)
}

/// Words and exit codes: a list, or one of them. `None`: something was wrong, and reported.
fn reasons(raw: &RawValue, field: &str, violations: &mut Violations) -> Option<Vec<String>> {
    let one = |raw: &RawValue| match json::view(raw) {
        Ok(Json::Text(text)) => Some(text.into_owned()),
        Ok(Json::Number(number)) => Some(number.to_owned()),
        _ => None,
    };
    let list = match json::view(raw) {
        Ok(Json::Null) => return Some(Vec::new()),
        Ok(Json::List(list)) => list,
        Ok(_) | Err(_) => vec![raw],
    };
    let mut found = Vec::with_capacity(list.len());
    for (place, raw) in (1_usize..).zip(&list) {
        match one(raw) {
            Some(text) => found.push(text),
            None => {
                let description = "is neither a word nor an exit code; send \"signal\" or 75, say";
                violations.add(format!("{field}[{place}]"), description);
            }
        }
        if violations.full() {
            return None;
        }
    }
    (found.len() == list.len()).then_some(found)
}
