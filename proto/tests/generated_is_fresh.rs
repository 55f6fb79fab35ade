//! The checked-in code under `src/generated` is what the `.proto` files give.
//! Run with `MUSTER_REGENERATE=1` to write it anew.

use std::{fs, path::Path};

#[test]
fn generated_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["batch", "options", "explain", "prefill", "task", "fleet", "worker"]
        .map(|noun| format!("muster/v1/{noun}.proto"));
    let descriptors = protox::compile(files, [root.join("proto")]).expect("the .proto files compile");
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("muster.v1.bin"), prost::Message::encode_to_vec(&descriptors)).unwrap();
    tonic_prost_build::configure()
        .bytes(".muster.v1.PushLogsRequest.data")
        .bytes(".muster.v1.TailLogsResponse.data")
        .bytes(".muster.v1.Ended.inline_log")
        .skip_debug([
            ".muster.v1.SubmitBatchRequest",
            ".muster.v1.PrefillBatchRequest",
            ".muster.v1.RetryBatchRequest",
            ".muster.v1.Offer",
            ".muster.v1.PushLogsRequest",
        ])
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code is generated");

    let mut stale = Vec::new();
    for name in ["muster.v1.rs", "muster.v1.bin"] {
        let fresh = fs::read(out.path().join(name)).unwrap();
        let kept = root.join("src/generated").join(name);
        if std::env::var_os("MUSTER_REGENERATE").is_some() {
            fs::write(&kept, &fresh).unwrap();
        } else if fs::read(&kept).ok().as_deref() != Some(&fresh) {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "{stale:?} differ: MUSTER_REGENERATE=1 cargo test -p muster-proto");
}
