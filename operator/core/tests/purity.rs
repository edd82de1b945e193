//! What may be depended on, as cargo sees it: the core has no way to reach anything, the operator has one provider of
//! cryptography. `deny.toml` asks the rest, where `cargo deny` is at hand.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use std::collections::BTreeSet;
use std::process::Command;

/// What reaches a network, a process or a clock of its own, and what would bring a runtime along.
const FORBIDDEN: &[&str] = &[
    "async-std",
    "binder-operator",
    "hyper",
    "kube-client",
    "kube-runtime",
    "mongodb",
    "object_store",
    "rand",
    "reqwest",
    "russh",
    "rustls",
    "smol",
    "socket2",
    "tokio",
];

/// The names of all that `package` is built from, its own tests left out.
fn dependencies(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            package,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_core_cannot_reach_anything() {
    let core = dependencies("binder-core");
    assert!(core.contains("binder-crds") && core.contains("jiff"), "this is no tree of the core: {core:?}");
    let found: Vec<&&str> = FORBIDDEN.iter().filter(|name| core.contains(**name)).collect();
    assert_eq!(found, Vec::<&&str>::new(), "`cargo tree --package binder-core --invert NAME` shows who brings it in");
    // The list has names that exist: the operator itself has most of them.
    let operator = dependencies("binder-operator");
    let known = FORBIDDEN.iter().filter(|name| operator.contains(**name)).count();
    assert!(known >= 9, "only {known} of the forbidden names are in the operator: the list is out of date");
}

/// rustls refuses a second provider in one process only when it runs: at the first connection, on the owner's cluster.
#[test]
fn the_operator_has_one_provider_of_cryptography() {
    let operator = dependencies("binder-operator");
    assert!(operator.contains("ring"), "this is no tree of the operator: {operator:?}");
    for other in ["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys"] {
        assert!(
            !operator.contains(other),
            "`cargo tree --package binder-operator --invert {other}` shows who brings it in"
        );
    }
}
