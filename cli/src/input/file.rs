//! Reads what a user named, whole and bounded.

use std::io::{Error as IoError, ErrorKind, Read};

use crate::error::Error;

/// Reads a file, or standard input for `-`, of at most `limit` bytes of UTF-8.
pub(crate) fn read_text(path: &str, limit: u64) -> Result<String, Error> {
    let failed = |source: IoError| Error::Read { path: path.to_owned(), source };
    let reader: Box<dyn Read> = if path == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::Usage(format!("{path}: larger than the limit of {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| failed(IoError::new(ErrorKind::InvalidData, "not UTF-8 text")))
}
