//! Children that misbehave, as real processes of a real worker: each ends as it should, and nothing of it is left.
//!
//! Every test runs twice: where tasks have no cgroup of their own, and where they have one. The second needs a
//! machine that lets us make cgroups (version 2); elsewhere it says that it was skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bed;
mod output;
mod processes;

/// Makes two tests of every function that is given a [`Bed`](bed::Bed).
macro_rules! both_ways {
    ($($name:ident)*) => {
        mod without_cgroups {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::bed::Bed::plain().await).await;
            })*
        }
        mod in_cgroups {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(bed) = crate::bed::Bed::in_cgroup().await {
                    super::$name(bed).await;
                }
            })*
        }
    };
}
pub(crate) use both_ways;
