//! What the controllers do with the API, over one in memory.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

mod passes;
mod recorded;
mod server;

use super::*;
use crate::config::CommandLine;
use crate::hosts::Ssh;
use clap::Parser;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use server::Server;

/// Where the objects of the tests lie.
const HOSTS: &str = "/apis/fleet.binder-project.org/v1alpha1/namespaces/binder/binderhosts";
const ACTIONS: &str = "/apis/fleet.binder-project.org/v1alpha1/namespaces/binder/binderactions";

/// A store that holds these.
fn stored(hosts: &[BinderHost]) -> Store<BinderHost> {
    let (store, mut writer) = reflector::store();
    writer.apply_watcher_event(&Event::Init);
    for host in hosts {
        writer.apply_watcher_event(&Event::InitApply(host.clone()));
    }
    writer.apply_watcher_event(&Event::InitDone);
    store
}

/// What a process that has just started shares, over an API in memory, where nothing is described.
fn context(server: &Server) -> Arc<Context> {
    process(server, &[], Ssh::default())
}

/// The same where these hosts are described, and machines are reached so.
fn process(server: &Server, described: &[BinderHost], ssh: Ssh) -> Arc<Context> {
    with_flags(server, described, ssh, &[])
}

/// The same with flags.
fn with_flags(server: &Server, described: &[BinderHost], ssh: Ssh, flags: &[&str]) -> Arc<Context> {
    let client = server.client();
    let config = CommandLine::parse_from(std::iter::once(&"binder-operator").chain(flags)).config;
    let hosts = stored(described);
    let Surroundings { outside, clock, dice, jitter } = Surroundings::over(ssh, Arc::new(|ceiling| ceiling), &config);
    let (fleets, _) = reflector::store();
    Arc::new(Context {
        ssh: Hosts::by(outside.clone(), jitter, clock.clone()),
        metrics: Arc::default(),
        recorder: Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: None }),
        hosts,
        fleets,
        actions: actions::Actions::default(),
        stop: CancellationToken::new(),
        members: Arc::default(),
        secrets: secrets::Secrets::default(),
        disrupting: tokio::sync::Mutex::default(),
        key_search: keys::Search::default(),
        backups: backups::Seen::default(),
        brakes: brake::Brakes::of_a_start(clock.now()),
        outside,
        clock,
        dice,
        altered: fleet::Altered::default(),
        neighbours: Arc::default(),
        read: SetOnce::new_with(Some(())),
        known: Mutex::default(),
        fleet_errors: Mutex::default(),
        config,
        client,
    })
}

/// An object from its JSON.
fn object<K: DeserializeOwned>(json: Value) -> K {
    serde_json::from_value(json).unwrap()
}

/// A host of an object's UID.
fn host(uid: &str) -> BinderHost {
    object(json!({
        "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderHost",
        "metadata": {"name": "web", "namespace": "binder", "uid": uid, "generation": 1},
        "spec": {"address": "192.0.2.1", "hostKeys": ["ssh-ed25519 AAAA"]},
    }))
}

/// An action as the operator writes it for the host `web`.
fn action(name: &str, host_uid: &str) -> Value {
    json!({
        "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderAction",
        "metadata": {
            "name": name, "labels": {binder_crds::HOST_LABEL: "web", binder_crds::HOST_UID_LABEL: host_uid},
            "managedFields": [{"manager": MANAGER, "operation": "Update", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {
            "host": "web", "hostUid": host_uid, "step": "Reboot", "subject": "web", "description": "reboot",
            "parameters": {"step": "Reboot", "bootId": "b"}, "drift": "ProcessMissing", "evidence": "", "attempt": 1,
            "decidedAt": "2026-11-01T00:00:00Z", "deadline": "2026-11-01T00:05:00Z",
        },
    })
}
