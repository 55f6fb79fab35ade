//! `--since`: how long ago, or a time.

use std::str::FromStr;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use muster_proto::v1::GetInfoRequest;

use crate::{client::Client, error::Error};

/// From when on output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long before now; never negative.
    Ago(SignedDuration),
    /// This time.
    At(Timestamp),
}

impl FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        let ago = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
        match ago {
            Ok(ago) if !ago.is_negative() => Ok(Self::Ago(ago)),
            Ok(_) | Err(_) => Err("not a duration such as 90s, 10m or 1d, nor a time such as \
                 2026-11-24T10:00:00Z or 2026-11-24T11:00:00+01:00"),
        }
    }
}

impl Since {
    /// The time that is meant. What is so long ago is counted back on the coordinator's clock, by which output has its
    /// times; where it does not tell, on this machine's.
    pub async fn time(self, client: &Client) -> Result<Timestamp, Error> {
        let ago = match self {
            Self::At(time) => return Ok(time),
            Self::Ago(ago) => ago,
        };
        let theirs = match client.call(client.batches().get_info(GetInfoRequest {})).await {
            Ok(info) => info.server_time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok()),
            Err(Error::CoordinatorFailed { code: tonic::Code::Unimplemented, .. }) => None,
            Err(error) => return Err(error),
        };
        let now = theirs.unwrap_or_else(Timestamp::now);
        Ok(now.saturating_sub(ago).unwrap_or(Timestamp::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times_are_as_people_write_them() {
        let seconds = |seconds| Ok(Since::Ago(SignedDuration::from_secs(seconds)));
        for (text, expected) in
            [("90s", 90), ("10m", 600), ("2h", 7_200), ("1h30m", 5_400), ("1d", 86_400), ("0s", 0)]
        {
            assert_eq!(text.parse(), seconds(expected), "{text}");
        }
        let time = Timestamp::from_second(1_795_514_400).unwrap();
        for text in ["2026-11-24T10:00:00Z", "2026-11-24T11:00:00+01:00"] {
            assert_eq!(text.parse(), Ok(Since::At(time)), "{text}");
        }
        for wrong in ["", "10", "-5m", "yesterday", "2026-11-24T10:00:00", "1month"] {
            assert!(wrong.parse::<Since>().is_err(), "{wrong}");
        }
    }
}
