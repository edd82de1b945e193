//! The invariants that are asked in the calm: every host has ended, its status says what is so.

use super::forbidden;
use crate::api::{Kind, text};
use crate::machine::Power;
use crate::state::State;
use serde_json::Value;
use std::time::Duration;

/// How a host has ended, in the calm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As described, and said so.
    Well,
    /// A person is asked.
    Stalled,
    /// It waits for what a person has set.
    Waits(String),
    /// It has not ended.
    Open(String),
}

/// How it is said that somebody is waited for: a person, or what only people bring about.
const PEOPLE: &[&str] = &[
    "a person",
    "a second witness",
    "a first login",
    "certainty that the instance",
    "the clock of the machine",
    "mode ",
    "approval",
];

fn condition<'v>(object: &'v Value, kind: &str) -> (&'v str, &'v str, &'v str) {
    let found =
        object["status"]["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
    let word = |key: &str| found.and_then(|condition| condition[key].as_str()).unwrap_or_default();
    (word("status"), word("reason"), word("message"))
}

impl State {
    /// How a host has ended.
    pub fn end(&self, host: &Value) -> End {
        let uid = text(host, &["metadata", "uid"]).unwrap_or_default();
        let fleet_rests = self.store.all(Kind::Fleet).any(|fleet| fleet["spec"]["suspend"] == true);
        if fleet_rests || host["spec"]["suspend"] == true {
            // Nobody looks, and what is under way is judged when somebody does again.
            return End::Waits("suspended".to_owned());
        }
        if self
            .store
            .all(Kind::Action)
            .any(|action| action["spec"]["hostUid"] == uid && action["status"].get("outcome").is_none())
        {
            return End::Open("an action is open".to_owned());
        }
        let waits = text(host, &["status", "waitsFor"]).unwrap_or_default();
        match condition(host, "Healthy") {
            _ if host["status"]["observedGeneration"] != host["metadata"]["generation"] => {
                End::Open("its status is of an older generation".to_owned())
            }
            ("True", ..) => End::Well,
            _ if condition(host, "Stalled").0 == "True" => End::Stalled,
            _ if forbidden(&self.store, uid).is_some() => End::Waits("a person has set it so".to_owned()),
            _ if PEOPLE.iter().any(|who| waits.starts_with(who)) => End::Waits(waits.to_owned()),
            // Somebody answers there, who is not the machine or does not let us in.
            _ if matches!(
                condition(host, "Reachable").1,
                "HostKeyMismatch" | "LoginRefused" | "MoreProofWanted" | "PortClosed" | "Hung"
            ) =>
            {
                End::Waits(condition(host, "Reachable").1.to_owned())
            }
            _ if waits.contains("the fleet's brake") || waits.contains("held") => End::Waits(waits.to_owned()),
            (status, reason, message) => End::Open(format!("Healthy={status} {reason}: {message}; waits for {waits}")),
        }
    }

    /// In the calm: `ends` and `true-end`, for every host.
    pub fn judge_end(&mut self, now: Duration) {
        let hosts: Vec<Value> = self.store.all(Kind::Host).cloned().collect();
        let ends: Vec<End> = hosts.iter().map(|host| self.end(host)).collect();
        for (host, end) in hosts.iter().zip(&ends) {
            let name = text(host, &["metadata", "name"]).unwrap_or_default();
            let address = text(host, &["spec", "address"]).unwrap_or_default();
            let word = match end {
                End::Well => "well",
                End::Stalled => "stalled",
                End::Waits(_) => "waits",
                End::Open(_) => "open",
            };
            crate::coverage::count(&mut self.coverage.ends, word);
            let Some(machine) = self.at(address) else { continue };
            let (well, power) = (self.machines[machine].well_since.is_some(), self.machines[machine].power);
            let seen = self.machines[machine].key == 0 && !self.machines[machine].refuses;
            let others_wait = ends.iter().zip(&hosts).any(|(other, of)| of != host && *other != End::Well);
            match end {
                End::Open(why) if !others_wait => {
                    self.judge.finds(
                        "ends",
                        now,
                        format!("{name} has not ended (truth: well {well}, {power:?}): {why}"),
                    );
                }
                End::Well if !well => {
                    self.judge.finds("true-end", now, format!("{name} is said to be healthy, and is not ({power:?})"));
                }
                End::Stalled | End::Waits(_) if well && seen && forbidden_to_look(host).is_none() => {
                    let what = text(host, &["status", "summary"]).unwrap_or_default();
                    let fleet = self.store.all(Kind::Fleet).any(|fleet| fleet["spec"]["suspend"] == true);
                    if !fleet {
                        self.judge.finds(
                            "true-end",
                            now,
                            format!("{name} is as described, and its status says: {what}"),
                        );
                    }
                }
                _ => {}
            }
            if condition(host, "Reachable").0 == "True" && !matches!(power, Power::On) {
                self.judge.finds("true-end", now, format!("{name} is said to be reachable, and is {power:?}"));
            }
        }
    }
}

fn forbidden_to_look(host: &Value) -> Option<&'static str> {
    (host["spec"]["suspend"] == true).then_some("suspended")
}
