//! Finds the workspace's programs, building them first: a test of one package does not build another's.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The path of one of the workspace's programs, built with the profile of the program that asks.
pub fn bin(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let path = DIR.get_or_init(build).join(name);
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// The folder of the example batch and dispatch program.
pub fn examples_dir() -> PathBuf {
    workspace_dir().join("examples")
}

fn workspace_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_path_buf()
}

fn build() -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let mut dir = own.parent().expect("a program lies in a folder").to_path_buf();
    if dir.file_name().is_some_and(|name| name == "deps" || name == "examples") {
        dir.pop();
    }
    let profile = match dir.file_name().and_then(|name| name.to_str()).expect("a profile's folder") {
        "debug" => "dev",
        other => other,
    };
    let target = dir.parent().expect("a target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The whole workspace, so that features resolve as they did for `cargo test --workspace`.
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(workspace_dir())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the workspace's programs do not build");
    dir
}
