//! How long to wait before a question is asked again.

use std::time::{Duration, SystemTime};

/// The most tries for one contract.
pub(super) const MAX_TRIES: u32 = 3;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The pause after so many tries (at least 1): what the other side asks for, if that is longer than our own
/// back-off. `jitter` adds up to half of that, so that many do not come back at once.
pub(super) fn pause(tries: u32, asked: Option<Duration>, jitter: u8) -> Duration {
    let own = FIRST_PAUSE * 2_u32.saturating_pow(tries.saturating_sub(1).min(8));
    let own = own + own / 2 * u32::from(jitter) / u32::from(u8::MAX);
    asked.map_or(own, |asked| asked.max(own))
}

/// Reads a Retry-After: seconds, or a date. `None` if it is neither.
pub(super) fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let text = header.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Random where the system has randomness; else none, which is no harm.
pub(super) fn jitter() -> u8 {
    let mut byte = [0];
    getrandom::fill(&mut byte).map_or(0, |()| byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_never_undercut_what_was_asked() {
        let ms = Duration::from_millis;
        assert_eq!([1, 2, 3].map(|tries| pause(tries, None, 0)), [ms(250), ms(500), ms(1_000)]);
        assert_eq!(pause(1, None, 255), ms(375));
        assert_eq!(pause(1, Some(ms(7_000)), 255), ms(7_000));
        assert_eq!(pause(2, Some(ms(0)), 0), ms(500));
        assert!(pause(u32::MAX, Some(Duration::MAX), 255) == Duration::MAX);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let of = |header| retry_after(header, now);
        assert_eq!(of(" 12 "), Some(Duration::from_secs(12)));
        assert_eq!(of("0"), Some(Duration::ZERO));
        assert_eq!(of("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:40 GMT"), Some(Duration::from_secs(3)));
        assert_eq!(of("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        for header in ["", "-1", "1.5", "soon", "+3"] {
            assert_eq!(of(header), None, "{header}");
        }
    }
}
