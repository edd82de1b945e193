//! Facet `port_redirects`: each redirect is there exactly once. Twice works as well as once until somebody deletes "the"
//! rule; an earlier rule for the same port makes ours useless.

use super::{Check, Drift, DriftKind, Facet, Rung, Step};
use crate::seen::{Ask, Blind, Observation, nat};
use binder_crds::desired::PortRedirect;
use binder_crds::{Desired, conditions};
use std::time::Duration;

/// The facet.
pub struct PortRedirects;

/// iptables acts at once; the time is for waiting on its lock.
const TAKES_EFFECT: Duration = Duration::from_secs(15);

impl Facet for PortRedirects {
    fn condition(&self) -> &'static str {
        conditions::REDIRECT_IN_PLACE
    }

    fn in_use(&self, desired: &Desired) -> bool {
        !desired.port_redirects.is_empty()
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        vec![nat::ask()]
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Blind> {
        let rules = seen.nat.get()?;
        let drifts = desired.port_redirects.iter().filter_map(|wanted| look(wanted, rules)).collect();
        let words: Vec<String> =
            desired.port_redirects.iter().map(|wanted| format!("{}, once", words(wanted))).collect();
        Ok(Check { drifts, as_described: words.join("; "), ..Check::default() })
    }

    fn ladder(&self, desired: &Desired, _: &Observation, drift: &Drift) -> Vec<Rung> {
        let Some(wanted) = desired.port_redirects.iter().find(|wanted| subject(wanted) == drift.subject) else {
            return Vec::new();
        };
        let (interface, from, to) = (wanted.interface.0.clone(), wanted.from, wanted.to);
        let step = match drift.kind {
            DriftKind::RedirectMissing => Step::InsertRedirect { interface, from, to },
            DriftKind::RedirectDoubled => Step::DeleteExtraRedirects { interface, from, to },
            // A rule of somebody else's is not ours to delete.
            _ => return Vec::new(),
        };
        vec![Rung { step, takes_effect: TAKES_EFFECT }]
    }
}

fn words(wanted: &PortRedirect) -> String {
    format!("{} {} -> {}", wanted.interface, wanted.from, wanted.to)
}

fn subject(wanted: &PortRedirect) -> String {
    format!("redirect {}:{}", wanted.interface, wanted.from)
}

fn look(wanted: &PortRedirect, rules: &[nat::Redirect]) -> Option<Drift> {
    let drift = |kind, short: String, evidence| Some(Drift { kind, subject: subject(wanted), short, evidence });
    let same_port = |rule: &&nat::Redirect| {
        rule.from == wanted.from && rule.interface.as_ref().is_none_or(|interface| *interface == wanted.interface.0)
    };
    let ours = |rule: &nat::Redirect| rule.plain && rule.interface.is_some() && rule.to == wanted.to;
    let count = rules.iter().filter(same_port).filter(|rule| ours(rule)).count();
    if let Some(first) = rules.iter().find(same_port)
        && first.to != wanted.to
    {
        return drift(
            DriftKind::RedirectShadowed,
            format!("port {} goes to {}", wanted.from, first.to),
            format!(
                "an earlier rule sends {} {} to {}, not to {}: delete it, it is not ours",
                wanted.interface, wanted.from, first.to, wanted.to
            ),
        );
    }
    match count {
        0 => drift(
            DriftKind::RedirectMissing,
            format!("port {} is not redirected", wanted.from),
            format!("the redirect {} is not there", words(wanted)),
        ),
        1 => None,
        more => drift(
            DriftKind::RedirectDoubled,
            format!("port {} is redirected {more} times", wanted.from),
            format!("the redirect {} is there {more} times", words(wanted)),
        ),
    }
}
