//! Facet `api_keys`: every server of the host takes the API key that the Secret holds. One that answers 403 was started with
//! another one (an environment of somebody's, or a key that was replaced since), and whoever calls it is turned away.

use super::services;
use super::{Check, Drift, DriftKind, Facet, Rung};
use crate::catalogue;
use crate::seen::servers::Key;
use crate::seen::{Ask, Blind, Observation, Reason, pm2};
use binder_crds::{Desired, conditions};

/// The facet.
pub struct ApiKeys;

impl Facet for ApiKeys {
    fn condition(&self) -> &'static str {
        conditions::API_KEY_ACCEPTED
    }

    fn in_use(&self, desired: &Desired) -> bool {
        desired.servers.iter().any(|server| catalogue::key_route(*server).is_some())
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        vec![pm2::ask()]
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Blind> {
        let (servers, machine, table) = (seen.servers.get()?, seen.machine.get()?, seen.pm2.get()?);
        let mut check = Check::default();
        let (mut fine, mut silent) = (Vec::new(), None);
        for component in catalogue::described(desired) {
            let name = &component.name;
            match servers.keys.get(name) {
                Some(Key::Accepted) => fine.push(name.clone()),
                // Whatever else has the port is no server of ours, and what the facet `services` puts right is started
                // with the right key.
                Some(Key::Refused) if services::in_place(&component, desired, machine, table, seen) => {
                    check.drifts.push(Drift {
                        kind: DriftKind::KeyRefused,
                        subject: name.clone(),
                        short: format!("{name}: another API key"),
                        evidence: format!(
                            "{name} answers 403 to the Secret's API key: it was started with another one"
                        ),
                    });
                }
                Some(Key::Refused) => silent = Some(format!("{name} does not run as described")),
                Some(Key::Silent(why)) => silent = Some(format!("{name}: {why}")),
                None => {}
            }
        }
        match silent {
            Some(why) if check.drifts.is_empty() => Err(Blind {
                reason: Reason::NotAnswered,
                message: format!("whether every server takes the API key is not known: {why}"),
            }),
            _ => {
                check.as_described = format!("{} answer to the Secret's API key", fine.join(", "));
                Ok(check)
            }
        }
    }

    fn ladder(&self, desired: &Desired, _: &Observation, drift: &Drift) -> Vec<Rung> {
        // What is then missing is started with the key that the Secret holds.
        let components = catalogue::described(desired);
        components.iter().find(|component| component.name == drift.subject).map_or_else(Vec::new, services::clear)
    }
}
