//! The limits in force: the configured ones, capped by the operator's hard ones.
//!
//! Pure: reading config.json afresh at each submission, and keeping the last good limits when it does not
//! parse, is done where files are read.

use serde_json::Value;

use super::integer::Integer;

/// Configured tasks at once per batch when config.json says nothing usable.
pub const FALLBACK_MAX_CONCURRENCY: u32 = 3;
/// Configured tasks per batch when config.json says nothing usable.
pub const FALLBACK_MAX_TASKS: u32 = 5;

/// Hard limits, set by the operator when the coordinator starts; never by config.json or a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemLimits {
    /// Tasks of one batch that may run at once; at least 1.
    pub max_concurrency: u32,
    /// Tasks in one batch; at least 1.
    pub max_tasks: u32,
}

impl Default for SystemLimits {
    fn default() -> Self {
        Self { max_concurrency: 5, max_tasks: 10 }
    }
}

/// The limits that one submission meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Tasks at once that need no approval; never above the system's.
    pub max_concurrency: u32,
    /// Tasks per batch that need no approval; never above the system's.
    pub max_tasks: u32,
    /// What no approval lifts.
    pub system: SystemLimits,
}

impl Policy {
    /// The limits that a config document (`batch.max_concurrency`, `batch.max_tasks`) asks for. What is missing,
    /// unreadable or below 1 falls back to 3 and 5; both are then capped by `system`.
    pub fn from_config(config: &Value, system: SystemLimits) -> Self {
        let batch = config.get("batch");
        let read = |key, fallback: u32, cap: u32| {
            let given = batch.and_then(|batch| batch.get(key)).map_or(Integer::Unreadable, integer);
            match given {
                // Above u32 is above any cap.
                Integer::Value(value @ 1..) => u32::try_from(value).unwrap_or(u32::MAX),
                _ => fallback,
            }
            .min(cap)
        };
        Self {
            max_concurrency: read("max_concurrency", FALLBACK_MAX_CONCURRENCY, system.max_concurrency),
            max_tasks: read("max_tasks", FALLBACK_MAX_TASKS, system.max_tasks),
            system,
        }
    }

    /// The limits where there is no config at all.
    pub fn fallback(system: SystemLimits) -> Self {
        Self::from_config(&Value::Null, system)
    }
}

fn integer(value: &Value) -> Integer {
    match value {
        Value::Number(number) => Integer::from_number(number.as_str()),
        Value::String(text) => Integer::from_text(text),
        _ => Integer::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(config: &str) -> (u32, u32) {
        let policy = Policy::from_config(&serde_json::from_str(config).unwrap(), SystemLimits::default());
        (policy.max_concurrency, policy.max_tasks)
    }

    #[test]
    fn unreadable_values_fall_back() {
        for value in ["true", "false", "\"2.9\"", "\"1e1\"", "\"\"", "[4]", "{}", "null", "0.9", "\"0\""] {
            let config = format!(r#"{{"batch":{{"max_concurrency":{value},"max_tasks":{value}}}}}"#);
            assert_eq!(limits(&config), (3, 5), "{value}");
        }
    }

    #[test]
    fn readable_values_count_whatever_their_form() {
        assert_eq!(limits(r#"{"batch":{"max_concurrency":" +4 ","max_tasks":0.7e1}}"#), (4, 7));
        assert_eq!(
            limits(r#"{"batch":{"max_concurrency":1e400,"max_tasks":"99999999999999999999"}}"#),
            (5, 10)
        );
        assert_eq!(limits(r#"{"batch":{"max_concurrency":4294967297,"max_tasks":4294967297}}"#), (5, 10));
    }

    #[test]
    fn no_usable_batch_is_no_config() {
        for config in ["[]", "3", "\"batch\"", "null", r#"{"batch":"x"}"#, r#"{"batch":{"MAX_TASKS":1}}"#] {
            assert_eq!(limits(config), (3, 5), "{config}");
        }
    }

    #[test]
    fn the_system_caps_the_fallbacks_too() {
        let system = SystemLimits { max_concurrency: 2, max_tasks: 1 };
        let policy = Policy::fallback(system);
        assert_eq!((policy.max_concurrency, policy.max_tasks), (2, 1));
        let wide = SystemLimits { max_concurrency: 500, max_tasks: 1_000_000 };
        let policy = Policy::from_config(&serde_json::json!({"batch": {"max_tasks": 200_000}}), wide);
        assert_eq!((policy.max_concurrency, policy.max_tasks), (3, 200_000));
    }
}
