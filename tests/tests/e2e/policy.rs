//! Limits are read afresh at each submission, and approvals lift exactly what they say.

use std::fs;

use muster_proto::v1::{GetPolicyRequest, GetPolicyResponse, SubmitBatchRequest};
use muster_tests::{Cluster, ClusterOptions};
use tonic::Code;

async fn policy(cluster: &Cluster) -> GetPolicyResponse {
    cluster.batches().get_policy(GetPolicyRequest {}).await.unwrap().into_inner()
}

fn tasks(count: usize, concurrency: i32) -> SubmitBatchRequest {
    SubmitBatchRequest {
        batch_json: serde_json::to_string(&vec![""; count]).unwrap(),
        concurrency: Some(concurrency),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_takes_effect_at_the_next_submission_and_half_a_file_changes_nothing() {
    let options = ClusterOptions { config: Some("{}".into()), ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await;
    let config = cluster.dir().join("config.json");
    let limits = |policy: GetPolicyResponse| (policy.max_concurrency, policy.max_tasks);
    assert_eq!(limits(policy(&cluster).await), (3, 5), "the fallbacks");
    fs::write(&config, r#"{"batch": {"max_concurrency": "4", "max_tasks": 7.9}}"#).unwrap();
    assert_eq!(limits(policy(&cluster).await), (4, 7));
    let batch = cluster.batches().submit_batch(tasks(7, 4)).await.unwrap().into_inner().batch.unwrap();
    assert_eq!((batch.configured_max_concurrency, batch.configured_max_tasks), (4, 7));
    fs::write(&config, r#"{"batch": {"max_conc"#).unwrap();
    assert_eq!(limits(policy(&cluster).await), (4, 7), "the last good limits stay in force");
    fs::write(&config, r#"{"batch": {"max_concurrency": 99, "max_tasks": 0}}"#).unwrap();
    assert_eq!(limits(policy(&cluster).await), (5, 5), "capped by the hard limit; below 1 is the fallback");
    fs::remove_file(&config).unwrap();
    assert_eq!(limits(policy(&cluster).await), (3, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_lift_the_configured_limits_and_not_the_hard_ones() {
    let cluster = Cluster::start().await;
    let mut client = cluster.batches();
    let approved =
        |request| SubmitBatchRequest { task_count_approved: true, concurrency_approved: true, ..request };
    let batch = client.submit_batch(approved(tasks(10, 5))).await.unwrap().into_inner().batch.unwrap();
    assert_eq!((batch.task_count, batch.effective_concurrency, batch.requested_concurrency), (10, 5, 5));
    for refused in [tasks(11, 1), tasks(2, 6)] {
        let status = client.submit_batch(approved(refused)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    }
    let batch = client.submit_batch(approved(tasks(2, 5))).await.unwrap().into_inner().batch.unwrap();
    assert_eq!(batch.effective_concurrency, 2, "never more than there are tasks");
}
