//! Page tokens: opaque to clients, and good only where they came from.
//!
//! A token carries its version, what it lists, the life of the store, the batch and the place, with a checksum
//! against mutilation. It is no secret and grants nothing.

use std::fmt::Write as _;

use muster_proto::{BatchId, LifeId};

use super::convert::Violation;

const VERSION: u8 = 1;
const BYTES: usize = 1 + 1 + 8 + 8 + 4 + 4;

/// Where a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageToken {
    /// Batches older than this one.
    Batches(BatchId),
    /// Tasks of the batch after this index.
    Tasks(BatchId, u32),
}

impl PageToken {
    pub(crate) fn write(self, life: LifeId) -> String {
        let (kind, batch, after) = match self {
            Self::Batches(batch) => (1, batch, 0),
            Self::Tasks(batch, after) => (2, batch, after),
        };
        let mut bytes = vec![VERSION, kind];
        bytes.extend(life.0.to_be_bytes());
        bytes.extend(batch.get().to_be_bytes());
        bytes.extend(after.to_be_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes.iter().fold(String::with_capacity(2 * BYTES), |mut text, byte| {
            // A String takes everything that is written to it.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The place in the list of batches; empty: from the newest.
    pub(crate) fn batches(text: &str, life: LifeId) -> Result<Option<BatchId>, Violation> {
        match Self::read(text, life)? {
            None => Ok(None),
            Some(Self::Batches(batch)) => Ok(Some(batch)),
            Some(Self::Tasks(..)) => Err(elsewhere()),
        }
    }

    /// The place in the list of a batch's tasks; empty: from the first.
    pub(crate) fn tasks(text: &str, life: LifeId, batch: BatchId) -> Result<u32, Violation> {
        match Self::read(text, life)? {
            None => Ok(0),
            Some(Self::Tasks(of, after)) if of == batch => Ok(after),
            Some(Self::Tasks(..) | Self::Batches(_)) => Err(elsewhere()),
        }
    }

    fn read(text: &str, life: LifeId) -> Result<Option<Self>, Violation> {
        if text.is_empty() {
            return Ok(None);
        }
        parse(text, life).map(Some).ok_or_else(elsewhere)
    }
}

fn elsewhere() -> Violation {
    Violation::new(
        "page_token",
        "is not from this list; give next_page_token of the reply before as it is, or nothing for the first page",
    )
}

fn parse(text: &str, life: LifeId) -> Option<PageToken> {
    if text.len() != 2 * BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    let (checked, sum) = bytes.split_last_chunk::<4>()?;
    let (head, rest) = checked.split_first_chunk::<2>()?;
    let (of_life, rest) = rest.split_first_chunk::<8>()?;
    let (batch, rest) = rest.split_first_chunk::<8>()?;
    let after = u32::from_be_bytes(rest.try_into().ok()?);
    let batch = BatchId::from_u64(u64::from_be_bytes(*batch))?;
    let good = u32::from_be_bytes(*sum) == crc32fast::hash(checked) && u64::from_be_bytes(*of_life) == life.0;
    match head {
        [VERSION, 1] if good => Some(PageToken::Batches(batch)),
        [VERSION, 2] if good => Some(PageToken::Tasks(batch, after)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: LifeId = LifeId(3);

    #[test]
    fn a_token_goes_on_where_it_came_from() {
        let batch = BatchId::new(1_700_000_000_000, 5);
        assert_eq!(PageToken::batches(&PageToken::Batches(batch).write(LIFE), LIFE), Ok(Some(batch)));
        assert_eq!(PageToken::tasks(&PageToken::Tasks(batch, 1_000).write(LIFE), LIFE, batch), Ok(1_000));
        assert_eq!((PageToken::batches("", LIFE), PageToken::tasks("", LIFE, batch)), (Ok(None), Ok(0)));
    }

    #[test]
    fn a_token_from_elsewhere_is_refused_by_its_field() {
        let (batch, other) = (BatchId::new(1, 5), BatchId::new(2, 5));
        let token = PageToken::Tasks(batch, 7).write(LIFE);
        let mutilated = token.replacen(char::from(token.as_bytes()[9]), "f", 1).to_uppercase() + "0";
        for bad in [
            &mutilated,
            "elsewhere",
            "AAAA",
            "0000000000000",
            "竹",
            &"é".repeat(BYTES),
            &"0".repeat(2 * BYTES),
        ] {
            assert_eq!(PageToken::tasks(bad, LIFE, batch).unwrap_err().field, "page_token", "{bad}");
        }
        assert!(PageToken::tasks(&token, LIFE, other).is_err(), "another batch");
        assert!(PageToken::tasks(&token, LifeId(4), batch).is_err(), "another life");
        assert!(PageToken::batches(&token, LIFE).is_err(), "another list");
    }
}
