//! From drifts to the steps to come, and the one that may be done now: order, rung, gate.

use super::evidence::{self, Case, Demanded};
use super::memory::{FleetView, History};
use super::outage::Diagnosis;
use super::windows::{self, Windows};
use super::{Checked, Host, Run, brake, clock, order, scheduled, updates};
use crate::facets::machine::{self, BOOTS_WITHIN};
use crate::facets::{Disruption, Drift, FACETS, Facet, Rung, Step};
use crate::gate::demands::Evidence;
use crate::gate::{self, BlockedBy, Request};
use crate::seen::Observation;
use binder_crds::host::{DriftSince, HasRun, ScheduleStatus};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

/// A step to come, with what stands between it and now.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What it is to cure.
    pub drift: Drift,
    /// The step; `None` if there is no remedy, or none is left.
    pub rung: Option<Rung>,
    /// Attempts made.
    pub made: u32,
    /// Attempts allowed.
    pub allowed: u32,
    /// What blocks it; `None` for what runs now.
    pub blocked: Option<BlockedBy>,
}

impl Candidate {
    /// Whether nothing more will be tried: there is no remedy, or none that a person need not allow first.
    pub fn is_hopeless(&self) -> bool {
        self.rung.is_none() || self.blocked.as_ref().is_some_and(BlockedBy::is_final)
    }
}

/// What the steps to come are weighed against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reasoning<'a> {
    /// The host.
    pub host: &'a Host<'a>,
    /// What was tried, with what ended just now.
    pub memory: &'a History,
    /// The fleet.
    pub fleet: &'a FleetView,
    /// Since when attempts count.
    pub incident: Option<Timestamp>,
    /// What is done on a schedule.
    pub schedules: &'a [ScheduleStatus],
    /// What was seen; `None` of a host that could not be looked at.
    pub seen: Option<&'a Observation>,
    /// What has run here as it is described now.
    pub has_run: &'a [HasRun],
    /// The operator's clock.
    pub now: Timestamp,
}

/// A drift with what could be done about it.
struct Proposal {
    drift: Drift,
    ladder: Vec<Rung>,
    /// The reason that its time is counted for.
    reason: String,
    waits_for: Option<String>,
    /// When the machine will have been up for long enough, if that is ahead.
    booted_at: Option<Timestamp>,
    witness: Option<String>,
}

/// The steps to come.
#[derive(Debug, Default)]
pub(super) struct Weighed {
    /// In the runbook's order.
    pub candidates: Vec<Candidate>,
    /// The one that may be done now.
    pub run: Option<Run>,
    /// Since when what a restart of the machine may come of has been so.
    pub since: Vec<DriftSince>,
    /// The steps that this look led to.
    pub demanded: Demanded,
}

impl Reasoning<'_> {
    /// The steps to come in the runbook's order, and the one that may be done now.
    pub(super) fn what_next(&self, seen: &Observation, checks: &[Checked]) -> Weighed {
        let desired = &self.host.spec.desired;
        let progressing: Vec<String> = checks
            .iter()
            .filter_map(|checked| checked.result.as_ref().ok())
            .flat_map(|check| check.progressing.iter().map(|(subject, _)| subject.to_string()))
            .collect();
        let mut drifts: Vec<(&dyn Facet, &Drift)> = FACETS
            .iter()
            .flat_map(|facet| {
                let checked = checks.iter().find(|checked| checked.condition == facet.condition());
                let drifts =
                    checked.and_then(|checked| checked.result.as_ref().ok()).map_or(&[][..], |check| &check.drifts);
                let due = checked.map_or(&[][..], |checked| &checked.due);
                drifts.iter().chain(due).map(move |drift| (*facet, drift))
            })
            .collect();
        // What is wrong comes before what is only due.
        drifts.sort_by_key(|(facet, drift)| (drift.kind.is_scheduled(), facet.rank(desired, drift)));
        let proposals = drifts.into_iter().map(|(facet, drift)| {
            let tried = updates::Tried { memory: self.memory, incident: self.incident };
            // What a new version of a module has brought about is cured by going back to the old one, and not by a restart.
            let back = updates::ladder(drift, desired, seen, tried);
            let update = back.is_some();
            let mut ladder = back.unwrap_or_else(|| facet.ladder(desired, seen, drift));
            // Above the facets' own rungs are those that all share.
            if let Some(boot_id) = seen.boot_id().filter(|_| !update && !ladder.is_empty() && drift.kind.reboot_helps())
            {
                ladder.push(Rung::new(machine::Step::Reboot { boot_id: boot_id.to_owned() }, BOOTS_WITHIN));
            }
            let aged = || clock::waits_for(seen, drift.kind, &ladder);
            Proposal {
                drift: drift.clone(),
                waits_for: order::waits_for(drift, desired, checks, self.fleet).or_else(aged),
                ladder,
                reason: evidence::reason(drift.kind).to_owned(),
                booted_at: evidence::booted_at(seen, self.fleet, self.now),
                witness: None,
            }
        });
        self.weigh(proposals.collect(), &progressing, checks)
    }

    /// The step against a host that cannot be entered, for a reason.
    pub(super) fn against(&self, diagnosis: Diagnosis, reason: &str) -> Weighed {
        let Diagnosis { drift, ladder, booted_at, witness } = diagnosis;
        // Where nothing can be done, what would have to be so is said all the same.
        let waits_for = witness.clone().filter(|_| ladder.is_empty());
        let reason = reason.to_owned();
        self.weigh(vec![Proposal { drift, ladder, reason, waits_for, booted_at, witness }], &[], &[])
    }

    fn weigh(&self, proposals: Vec<Proposal>, progressing: &[String], checks: &[Checked]) -> Weighed {
        let heavy =
            |proposal: &&Proposal| proposal.ladder.iter().any(|rung| rung.step.disruption() == Disruption::Host);
        let present: Vec<(String, String)> = proposals
            .iter()
            .filter(heavy)
            .map(|proposal| (proposal.drift.subject.to_string(), proposal.reason.clone()))
            .collect();
        let since = evidence::since(&self.host.previous.drift_since, &present, progressing, self.now);
        let mut chosen: Vec<(Proposal, Option<Rung>)> = proposals
            .into_iter()
            .map(|proposal| {
                // The first rung with attempts left, else the last one, which then says how many were made.
                let left = |rung: &&Rung| self.made(&rung.step, &proposal.drift) < self.allowed(&rung.step);
                let rung = proposal.ladder.iter().find(left).or(proposal.ladder.last()).cloned();
                (proposal, rung)
            })
            .collect();
        // A whole machine is not restarted while a lighter step may still help.
        let whole = |rung: &Option<Rung>| rung.as_ref().is_some_and(|rung| rung.step.disruption() == Disruption::Host);
        let lighter = chosen.iter().find_map(|(proposal, rung)| {
            let rung = rung.as_ref().filter(|rung| rung.step.disruption() < Disruption::Host)?;
            let left = self.made(&rung.step, &proposal.drift) < self.allowed(&rung.step);
            (left && proposal.waits_for.is_none()).then(|| rung.step.words())
        });
        for (proposal, rung) in &mut chosen {
            if whole(rung) && proposal.waits_for.is_none() {
                proposal.waits_for = lighter.clone();
            }
        }
        let mut weighed = Weighed { since, ..Weighed::default() };
        let mut first = None;
        for (proposal, rung) in chosen {
            let candidate = self.consider(proposal, rung, checks, &mut weighed, &mut first);
            weighed.candidates.push(candidate);
        }
        weighed
    }

    /// Asks the gate about one step. One step at a time on one host: a person at the keyboard does not do two either.
    /// `first` is the step that comes first of all, once one does: one that runs now or at the second look.
    fn consider(
        &self,
        proposal: Proposal,
        rung: Option<Rung>,
        checks: &[Checked],
        weighed: &mut Weighed,
        first: &mut Option<String>,
    ) -> Candidate {
        let Self { host, memory, fleet, now, .. } = *self;
        let Proposal { drift, reason, waits_for, booted_at, witness, .. } = proposal;
        let Some(rung) = rung else {
            let blocked = waits_for.map(|what| BlockedBy::Order { what });
            return Candidate { drift, rung: None, made: 0, allowed: fleet.patience.attempts, blocked };
        };
        let step = &rung.step;
        let (made, allowed) = (self.made(step, &drift), self.allowed(step));
        let name = action_name(host, memory);
        let in_turn = step.takes_turns();
        let domain = host.spec.domain.as_ref().map(|domain| domain.0.as_str());
        let purpose = windows::purpose(step, drift.kind, &host.spec.desired, checks);
        let over_budget = if in_turn { fleet.over_budget(domain, purpose) } else { None };
        let held = brake::holds(fleet, step, drift.kind);
        let closed_until = match windows::ask(&fleet.windows, purpose, now) {
            Windows::Closed(opens) if in_turn => Some(opens),
            Windows::Closed(_) | Windows::Open => None,
        };
        let under_way = memory.open().next();
        let looks = host.demanded.looks(&drift, step, now);
        weighed.demanded.add(&drift, step, looks, now);
        let case = Case {
            desired: &host.spec.desired,
            memory,
            fleet,
            seen: self.seen,
            has_run: self.has_run,
            since: &weighed.since,
            now,
        };
        let admitted = gate::admit(&Request {
            host: host.uid,
            via: fleet.build_server.as_ref().filter(|_| step.goes_to_build_server()).map(|build| build.uid.as_str()),
            action: &name,
            suspended: host.suspended.is_some(),
            mode: host.mode,
            held: held.as_deref(),
            waits_for: waits_for.as_deref(),
            taking_effect: under_way.map(|past| (past.words.as_str(), past.deadline)),
            attempts: made,
            max_attempts: allowed,
            retry_at: fleet.patience.until(memory.attempts(step, &drift.subject, self.since(&drift))),
            demands: step.nature().demands,
            evidence: Evidence { booted_at, ..case.of(&drift, &reason, step, looks) },
            witness: witness.as_deref(),
            closed_until,
            over_budget: over_budget.as_deref(),
            now,
        });
        let blocked = match (admitted, first.as_ref()) {
            (Err(BlockedBy::SecondLook), None) => {
                *first = Some(step.words());
                Some(BlockedBy::SecondLook)
            }
            (Ok(_) | Err(BlockedBy::SecondLook), Some(first)) => Some(BlockedBy::Order { what: first.clone() }),
            (Err(blocked), _) => Some(blocked),
            (Ok(permit), None) => {
                let lasts = SignedDuration::try_from(rung.takes_effect).ok();
                let deadline = lasts.and_then(|lasts| now.checked_add(lasts).ok()).unwrap_or(now);
                *first = Some(step.words());
                let (step, drift) = (rung.step.clone(), drift.clone());
                weighed.run = Some(Run { permit, step, drift, purpose, attempt: made + 1, allowed, deadline });
                None
            }
        };
        Candidate { drift, rung: Some(rung), made, allowed, blocked }
    }

    fn made(&self, step: &Step, drift: &Drift) -> u32 {
        self.memory.made(step, &drift.subject, self.since(drift))
    }

    /// Since when attempts count: since the incident began, or since a task was due.
    fn since(&self, drift: &Drift) -> Option<Timestamp> {
        if drift.kind.is_scheduled() { scheduled::due_since(self.schedules, &drift.subject) } else { self.incident }
    }

    fn allowed(&self, step: &Step) -> u32 {
        step.attempts().unwrap_or(self.fleet.patience.attempts)
    }
}

/// The name of the next attempt's BinderAction: made of everything that is remembered, so that the same memory gives the same
/// name and only one of two writers can create it, whatever step each of them decided on; while each attempt that is
/// remembered makes the next name another one.
fn action_name(host: &Host<'_>, memory: &History) -> String {
    let mut names: Vec<&str> = memory.actions.iter().map(|past| past.name.as_str()).collect();
    names.sort_unstable();
    let mut hash = Sha256::new();
    for part in std::iter::once(host.uid).chain(names) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let tail: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{tail}", host.name)
}
