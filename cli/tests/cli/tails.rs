//! Streams of output are read to their own end, behind the end of the log.

use std::time::Duration;

use muster_cli::{client::Client, tail::Tail};
use muster_proto::v1::TailLogsRequest;

use crate::support::{Buffer, Fake, context, gate, piece};

/// A stream that is dropped before its end is reset, and a connection on which thousands are reset is taken for an
/// attack and closed: "too many internal resets".
#[tokio::test]
async fn no_stream_is_dropped_before_its_end() {
    let fake = Fake::start();
    let client = Client::new(&context(&fake.url(), Box::new(Buffer::default()), &Buffer::default())).unwrap();
    for _ in 0..10 {
        let (open, held) = gate();
        fake.state.tails.lock().unwrap().push_back(vec![piece(0, b"x", true), held]);
        let mut tail = Tail::new(&client, TailLogsRequest { follow: true, ..TailLogsRequest::default() });
        let end = async {
            // Time for the log's end to arrive and, if we did so, to drop the stream; without it this proves less.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(open.send(()).is_ok(), "it was dropped before its end");
        };
        let (piece, ()) = tokio::join!(tail.next(), end);
        assert_eq!(piece.unwrap().unwrap().bytes, b"x");
        assert!(tail.next().await.unwrap().is_none());
    }
}
