//! `Debug` of messages that carry a key or output bytes: says what they are about, never what they hold.

use std::fmt;

use crate::v1;

impl fmt::Debug for v1::SubmitBatchRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitBatchRequest").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::PrefillBatchRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefillBatchRequest").field("lang", &self.lang).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::RetryBatchRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBatchRequest").field("batch_id", &self.batch_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::PushLogsRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushLogsRequest")
            .field("attempt", &self.attempt)
            .field("offset", &self.offset)
            .field("len", &self.data.len())
            .finish()
    }
}
