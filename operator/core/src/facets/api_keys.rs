//! Facet `api_keys`: every server of the host takes the API key that the Secret holds. One that answers 403 was started with
//! another one (an environment of somebody's, or a key that was replaced since), and whoever calls it is turned away.

use super::services;
use super::step::{Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, kinds_of_steps, plain};
use super::{Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::catalogue;
use crate::gate::demands::Demands;
use crate::seen::keys::{Found, KeySearch, Put, few};
use crate::seen::servers::Key;
use crate::seen::{Ask, Observation, Reason, Unknown, pm2};
use binder_crds::text::{BadText, Checked, ObjectName};
use binder_crds::{Desired, PURPOSE_API_KEY, PURPOSE_LABEL, conditions};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The facet.
pub struct ApiKeys;

/// How long it may take until the Secret is read with the key in it: the next look reads it, since no key is remembered.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

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

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        if let Some(search) = &seen.key_search {
            return unknown(search);
        }
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
                        subject: Subject::from(&component),
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
            Some(why) if check.drifts.is_empty() => Err(Unknown {
                reason: Reason::NotAnswered,
                message: format!("whether every server takes the API key is not known: {why}"),
            }),
            _ => {
                check.as_described = format!("{} answer to the Secret's API key", fine.join(", "));
                Ok(check)
            }
        }
    }

    fn rank(&self, desired: &Desired, drift: &Drift) -> u8 {
        services::rank(desired, drift)
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        if let Some(search) = seen.key_search.as_ref().filter(|_| drift.subject == Subject::ApiKey) {
            let may = matches!(search.found, Found::Agreed { .. }) && !matches!(search.put, Put::ByHand(_));
            let step = Step::WriteApiKey { secret: search.secret.clone(), entry: search.entry.clone() };
            return if may { vec![Rung::new(step, WRITTEN_WITHIN)] } else { Vec::new() };
        }
        // What is then missing is started with the key that the Secret holds.
        let components = catalogue::described(desired);
        components.iter().find(|component| drift.subject.is(component)).map_or_else(Vec::new, services::clear)
    }
}

/// The Secret does not have the key: what the servers' logs tell of it, and who puts it back.
fn unknown(search: &KeySearch) -> Result<Check, Unknown> {
    let KeySearch { namespace, secret, entry, .. } = search;
    let lack = match search.secret_is_there {
        true => format!("the Secret {secret} has no API key under {entry}"),
        false => format!("the Secret {secret} with the API key does not exist"),
    };
    let put = |from: &str, file: &str| {
        format!(
            "{from}kubectl -n {namespace} create secret generic {secret} --from-file={entry}={file} --dry-run=client -o yaml \
             | kubectl label --local -f - {PURPOSE_LABEL}={PURPOSE_API_KEY} -o yaml \
             | kubectl -n {namespace} apply --server-side -f -"
        )
    };
    let from_a_file = || format!("put the right one into a file and that into the Secret: {}", put("", "FILE"));
    let mut check = Check::default();
    let (kind, evidence) = match &search.found {
        Found::Unseen(why) => {
            let message = format!("{lack}, and whether the servers' logs agree on one is not known: {why}");
            return Err(Unknown { reason: Reason::NotSeen, message });
        }
        Found::Nowhere => {
            (DriftKind::KeyUnknown, format!("{lack}, and no log of a server tells one; {}", from_a_file()))
        }
        Found::Unproven(who) => {
            let why = format!("only the log of {who} tells one, and no server runs that could prove it");
            (DriftKind::KeyUnknown, format!("{lack}, and {why}; {}", from_a_file()))
        }
        Found::Odd(who) => {
            let why = format!("the log of {who} shows something that is not a key made by Binder");
            (DriftKind::KeysDisagree, format!("{lack}, and {why}; {}", from_a_file()))
        }
        Found::Refused(who) => {
            let why = format!("{who} refuses the one that the servers' logs tell");
            (DriftKind::KeysDisagree, format!("{lack}, and {why}; {}", from_a_file()))
        }
        Found::Disagree(groups) => {
            let why = format!("the servers' logs tell different ones: {}", few_groups(groups));
            (DriftKind::KeysDisagree, format!("{lack}, and {why}. Find out which is right, {}", from_a_file()))
        }
        Found::Agreed { logs, taken_by } => {
            let proof = match &taken_by[..] {
                [] => String::new(),
                all => format!(", which {} took", few(all)),
            };
            let by_hand = match &search.put {
                Put::ByHand(from) => format!("; put it there: {}", put(&format!("{from} | "), "/dev/stdin")),
                Put::Here | Put::ByWayOf(_) => String::new(),
            };
            let tell = match &logs[..] {
                [one] => format!("the log of {one} tells one"),
                all => format!("the logs of {} tell the same one", few(all)),
            };
            (DriftKind::KeyUnknown, format!("{lack}; {tell}{proof}{by_hand}"))
        }
    };
    if let (Found::Agreed { .. }, Put::ByWayOf(host)) = (&search.found, &search.put) {
        check.held.push((Subject::ApiKey, format!("{host} to put the API key into the Secret")));
    }
    let short = "the API key is not in its Secret".to_owned();
    check.drifts.push(Drift { kind, subject: Subject::ApiKey, short, evidence });
    Ok(check)
}

/// Groups of servers, the first few of them.
fn few_groups(groups: &[String]) -> String {
    let shown: Vec<&str> = groups.iter().take(3).map(String::as_str).collect();
    let more = groups.len() - shown.len();
    let rest = if more > 0 { format!("; and {more} more keys") } else { String::new() };
    format!("{}{rest}", shown.join("; "))
}

/// A step against an API key that its Secret lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Put the API key that the servers' logs agree on into the Secret that lacks it. The key itself is in no step.
    WriteApiKey {
        /// The Secret's name.
        secret: String,
        /// The entry.
        entry: String,
    },
}

kinds_of_steps!(Step: WriteApiKey);

impl Remedy for Step {
    fn words(&self) -> String {
        let Self::WriteApiKey { secret, .. } = self;
        format!("put the API key from the servers' logs into the Secret {secret}")
    }

    fn nature(&self) -> Nature<'_> {
        Nature {
            touches: Touches::Nothing,
            demands: Demands::ONE_LOOK,
            in_turn: false,
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: false,
            rests_on_age: false,
            starts: false,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        let Self::WriteApiKey { secret, entry } = self;
        ObjectName(secret.clone()).checked()?;
        plain("entry", entry)
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let Self::WriteApiKey { secret, .. } = self;
        Ok(match &later.seen.key_search {
            None => Effect::Seen(format!("the Secret {secret} has the API key")),
            Some(_) => Effect::NotYet(format!("the Secret {secret} still lacks the API key")),
        })
    }

    fn how(&self) -> How {
        let Self::WriteApiKey { secret, entry } = self;
        How::Secret { name: secret.clone(), entry: entry.clone() }
    }
}
