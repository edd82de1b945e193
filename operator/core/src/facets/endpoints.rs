//! Facet `endpoints`: each described port of another machine can be reached from this one. Seen and said: what is wrong is
//! on the other machine or between the two, and neither is this host's to put right. What is seen explains other drifts
//! (`Waits` in `facets/drift.rs`).

use super::{BLIP, Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::seen::reach::{Reached, subject, words};
use crate::seen::{Ask, Observation, Reason, Unknown};
use binder_crds::{Desired, conditions};

/// The facet.
pub struct Endpoints;

impl Facet for Endpoints {
    fn condition(&self) -> &'static str {
        conditions::ENDPOINTS_REACHABLE
    }

    fn in_use(&self, desired: &Desired) -> bool {
        !desired.reaches.is_empty()
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        Vec::new()
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let reaches = seen.reaches.get()?;
        let mut check = Check::default();
        let mut blind = None;
        let mut fine = Vec::new();
        for wanted in &desired.reaches {
            let (subject, to) = (subject(wanted), words(wanted));
            let (kind, short, evidence) = match reaches.get(&subject) {
                Some(Reached::Open) => {
                    fine.push(to);
                    continue;
                }
                Some(Reached::Unknown(why)) => {
                    blind = Some(format!("whether {to} can be reached from here: {why}"));
                    continue;
                }
                None => {
                    blind = Some(format!("not asked whether {to} can be reached from here"));
                    continue;
                }
                Some(Reached::Refused) => (
                    DriftKind::PortRefused,
                    format!("{to} is closed"),
                    format!("{to} is closed, seen from here: the machine answers, and nothing listens there"),
                ),
                Some(Reached::NoAnswer) => (
                    DriftKind::PortSilent,
                    format!("{to} does not answer"),
                    format!(
                        "{to} does not answer, seen from here: the machine is down or cut off, or a firewall drops the connection"
                    ),
                ),
                Some(Reached::NoRoute) => {
                    (DriftKind::NoRoute, format!("no route to {to}"), format!("no route from here to {to}"))
                }
                Some(Reached::NameNotFound) => (
                    DriftKind::NameNotFound,
                    format!("{to}: unknown name"),
                    format!(
                        "the name in {to} does not resolve here: correct reaches[].address or the machine's resolver"
                    ),
                ),
                Some(Reached::NoSuchHost) => (
                    DriftKind::NoSuchHost,
                    format!("{to}: no such host"),
                    format!("the fleet has no host for {to}: correct reaches[].host, or use address"),
                ),
            };
            // A host of the fleet that boots, or a lost packet: a person has not even read the line by then.
            if seen.lasting.age(&subject, seen.at) < BLIP && kind != DriftKind::NoSuchHost {
                check.progressing.push((Subject::Reach(subject), short));
            } else {
                check.drifts.push(Drift { kind, subject: Subject::Reach(subject), short, evidence });
            }
        }
        match blind {
            Some(message) if check.drifts.is_empty() && check.progressing.is_empty() => {
                Err(Unknown { reason: Reason::NotAnswered, message })
            }
            _ => {
                check.as_described = format!("{} can be reached from here", fine.join(", "));
                Ok(check)
            }
        }
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        super::LAST
    }

    fn ladder(&self, _: &Desired, _: &Observation, _: &Drift) -> Vec<Rung> {
        Vec::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::lasting::Lasting;
    use binder_crds::desired::Reach;
    use binder_crds::text::HostName;
    use jiff::{SignedDuration, Timestamp};
    use std::collections::BTreeMap;

    fn looked(found: Reached, for_seconds: i64) -> Result<Check, Unknown> {
        let desired = Desired {
            reaches: vec![Reach { host: Some(HostName::from("binder-services")), address: None, port: 9050 }],
            ..Desired::default()
        };
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1000);
        let mut seen = Observation::nothing(at);
        seen.reaches = Fact::Seen(BTreeMap::from([(subject(&desired.reaches[0]), found)]));
        let first = Lasting::default().carried(seen.marks(), at - SignedDuration::from_secs(for_seconds));
        seen.lasting = first.carried(seen.marks(), at);
        Endpoints.check(&desired, &seen)
    }

    #[test]
    fn what_lasts_is_said_and_what_is_not_known_is_not() {
        assert_eq!(looked(Reached::Open, 60).unwrap().as_described, "binder-services:9050 can be reached from here");
        for (found, kind) in [
            (Reached::Refused, DriftKind::PortRefused),
            (Reached::NoAnswer, DriftKind::PortSilent),
            (Reached::NoRoute, DriftKind::NoRoute),
            (Reached::NameNotFound, DriftKind::NameNotFound),
        ] {
            assert_eq!(looked(found.clone(), 60).unwrap().drifts[0].kind, kind);
            let blip = looked(found, 2).unwrap();
            assert!(blip.drifts.is_empty() && blip.progressing.len() == 1);
        }
        assert_eq!(looked(Reached::NoSuchHost, 0).unwrap().drifts[0].kind, DriftKind::NoSuchHost);
        let blind = looked(Reached::Unknown("it forbids tunnels".to_owned()), 60).unwrap_err();
        assert_eq!(blind.reason, Reason::NotAnswered);
    }
}
