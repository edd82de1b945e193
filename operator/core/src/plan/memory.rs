//! What was tried before, as BinderActions tell it, and what the fleet's other hosts mean for this one. Plain data.

use super::Finish;
use super::brake::Held;
use super::outage::Outage;
use crate::facets::step::OfModules;
use crate::facets::{Disruption, DriftKind, Step, Subject, docker};
use binder_crds::ActionOutcome;
use binder_crds::fleet::{Budget, Purpose, Window};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How what is recorded of a command begins when it ended with an exit code, which follows.
pub const EXIT_CODE: &str = "exit code ";

/// How the line begins in which a command names what Docker refused to remove: so many hexadecimal digits of each id follow.
pub const REFUSED: &str = "refused ";

/// As many digits of an id Docker itself shows.
const DIGITS: usize = 12;

/// One attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// The BinderAction's name.
    pub name: String,
    /// The BinderAction's UID.
    pub uid: String,
    /// The step; `None` if a version wrote it that knew others.
    pub step: Option<Step>,
    /// The kind of step.
    pub kind: String,
    /// What it was about, as the API has it: the text of a [`Subject`].
    pub subject: String,
    /// The step in words.
    pub words: String,
    /// Which attempt it was.
    pub attempt: u32,
    /// When the intention was recorded.
    pub created: Timestamp,
    /// By when its effect had to be seen.
    pub deadline: Timestamp,
    /// When the command was sent, if anybody knows.
    pub sent_at: Option<Timestamp>,
    /// What the command said.
    pub said: String,
    /// How it ended; `None` while its effect is awaited.
    pub outcome: Option<ActionOutcome>,
    /// When that was known.
    pub finished_at: Option<Timestamp>,
    /// The outcome in a sentence.
    pub message: String,
}

impl Attempt {
    /// What the step cost; of a step that this version does not know, the most.
    pub fn disruption(&self) -> Disruption {
        self.step.as_ref().map_or(Disruption::Host, Step::disruption)
    }

    /// The exit code of its command, if it is known. No success rests on it; see [`EXIT_CODE`].
    pub fn exit_code(&self) -> Option<i32> {
        let digits: String =
            self.said.strip_prefix(EXIT_CODE)?.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
        digits.parse().ok()
    }

    /// Whether Docker refused to remove something of this id in this attempt. No outcome rests on it: what is refused is
    /// passed over, and stays.
    pub fn refused(&self, id: &str) -> bool {
        let digits = id.strip_prefix("sha256:").unwrap_or(id).get(..DIGITS);
        let Some((_, named)) = self.said.rsplit_once(REFUSED) else { return false };
        let removes = match &self.step {
            Some(Step::Docker(docker::Step::RemoveContainers { containers })) => {
                containers.iter().any(|one| one.id == id)
            }
            Some(Step::Docker(docker::Step::RemoveImages { images })) => images.iter().any(|one| one.id == id),
            _ => false,
        };
        removes && digits.is_some_and(|digits| named.split(' ').any(|name| name == digits))
    }

    /// Whether Docker refused to remove something in this attempt.
    fn met_refusal(&self) -> bool {
        match &self.step {
            Some(Step::Docker(docker::Step::RemoveContainers { containers })) => {
                containers.iter().any(|one| self.refused(&one.id))
            }
            Some(Step::Docker(docker::Step::RemoveImages { images })) => images.iter().any(|one| self.refused(&one.id)),
            _ => false,
        }
    }

    /// Takes in how the attempt ended.
    pub fn end(&mut self, finish: &Finish, now: Timestamp) {
        self.outcome = Some(finish.outcome);
        self.finished_at = Some(now);
        self.message = finish.message.clone();
    }
}

/// Every attempt that is remembered of one host, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The attempts.
    pub actions: Vec<Attempt>,
}

impl History {
    /// Attempts whose effect is awaited.
    pub fn open(&self) -> impl Iterator<Item = &Attempt> {
        self.actions.iter().filter(|past| past.outcome.is_none())
    }

    /// Attempts at one step on one subject that count: since the incident began, whatever came of them. A fault that
    /// comes back after each heal must end with a person and not in a loop.
    ///
    /// A restart of the machine gives the lighter steps their attempts anew, once: everything has to be started again. It
    /// itself counts whatever it was about, for the whole incident.
    pub fn attempts<'m>(
        &'m self,
        step: &'m Step,
        subject: &Subject,
        since: Option<Timestamp>,
    ) -> impl Iterator<Item = &'m Attempt> {
        let (kind, subject) = (step.kind(), subject.to_string());
        let whole = step.disruption() == Disruption::Host;
        let since = if whole { since } else { since.max(self.last_success(Step::ends_boot)) };
        let since = match step.nature().modules {
            OfModules::RunsIn => since.max(self.last_success(|step| step.changes_module().is_some())),
            OfModules::Apart | OfModules::Changes(_) => since,
        };
        let counts = move |past: &Attempt| match &past.step {
            Some(done) if whole => step.kind() == done.kind() && step.restarts_same_machine(done),
            _ => past.kind == kind && (whole || past.subject == subject),
        };
        self.actions.iter().filter(move |past| {
            counts(past)
                && since.is_none_or(|since| past.created >= since)
                && past.outcome != Some(ActionOutcome::Abandoned)
        })
    }
}

impl History {
    /// When a step of some kind was last done with success, as far as that is remembered.
    fn last_success(&self, of: impl Fn(&Step) -> bool) -> Option<Timestamp> {
        self.actions
            .iter()
            .filter(|past| past.step.as_ref().is_some_and(&of))
            .filter(|past| past.outcome == Some(ActionOutcome::Succeeded))
            .map(|past| past.created)
            .max()
    }

    /// How many attempts at a step count against its allowance. Those that did their part of a work that has many parts
    /// count as one in [`parts`](crate::facets::step::Nature::parts): progress is no failure, and still does not go on for ever. So do those that found what
    /// Docker refuses to remove: it is passed over from then on, and the next attempt is about the rest.
    pub fn made(&self, step: &Step, subject: &Subject, since: Option<Timestamp>) -> u32 {
        let (mut good, mut others) = (0u32, 0u32);
        for past in self.attempts(step, subject, since) {
            match past.outcome {
                Some(ActionOutcome::Succeeded) => good += 1,
                Some(_) if past.met_refusal() => good += 1,
                _ => others += 1,
            }
        }
        others + good / step.nature().parts.max(1)
    }
}

/// How patiently to remedy, read from the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The pause after the first failed attempt; it doubles with each further one.
    pub retry_period: Duration,
    /// Attempts at each rung.
    pub attempts: u32,
    /// How long a host must have been healthy for attempts to count afresh.
    pub min_healthy_period: Duration,
    /// How long a host must have been silent before it may be taken for dead.
    pub unreachable_timeout: Duration,
    /// How many steps that disrupt the whole machine one host may have within a day.
    pub per_day: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retry_period: Duration::from_secs(30),
            attempts: 3,
            min_healthy_period: Duration::from_secs(900),
            unreachable_timeout: Duration::from_secs(300),
            per_day: 1,
        }
    }
}

impl RetryPolicy {
    /// When the pause after the failures among some attempts ends.
    pub fn until<'p>(&self, attempts: impl Iterator<Item = &'p Attempt>) -> Option<Timestamp> {
        let (mut failures, mut last) = (0u32, None);
        for past in attempts {
            if matches!(past.outcome, Some(ActionOutcome::Failed | ActionOutcome::Unknown)) {
                // What Docker refused to remove is not tried again: the pause grows no longer for it.
                failures += u32::from(!past.met_refusal());
                last = past.finished_at.or(Some(past.deadline));
            }
        }
        let pause = self.retry_period.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let pause = SignedDuration::try_from(pause)
            .unwrap_or(SignedDuration::from_hours(24))
            .min(SignedDuration::from_hours(24));
        last.and_then(|last| last.checked_add(pause).ok())
    }
}

/// What the other hosts of the fleet mean for this one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetView {
    /// The governing fleet, if there is one.
    pub fleet: Option<String>,
    /// The fleet that the host names and that does not govern it: there is none of that name, or not any more.
    pub missing_fleet: Option<String>,
    /// How patiently to remedy.
    pub patience: RetryPolicy,
    /// Components that another host of the fleet is described to run and does not, with that host's name.
    pub missing: BTreeMap<String, String>,
    /// What stands in the way of starting a server with the API key, in words; `None` when nothing does.
    pub api_key_problem: Option<String>,
    /// What others say of this host, when it is silent.
    pub outage: Outage,
    /// How many hosts may be disrupted at once.
    pub budget: Budget,
    /// The other hosts that are disrupted now, by us or by themselves, with their failure domains.
    pub disrupted: Vec<Disrupted>,
    /// Why no step that disrupts a service or a host is done anywhere in the fleet; `None` while its brake is open.
    pub held: Option<Held>,
    /// While the operator has only just started: the kinds of drift that this host's status told before. Others have yet
    /// to be seen to last. `None` once it runs for [`brake::SETTLES`](super::brake::SETTLES).
    pub just_started: Option<BTreeSet<DriftKind>>,
    /// The other hosts whose modules we have begun to change and that are not well with them yet, or will not be.
    pub updating: Vec<String>,
    /// Components that run on another host whose modules are not as described, with that host's name.
    pub outdated: BTreeMap<String, String>,
    /// When disruption is allowed; none: always.
    pub windows: Vec<Window>,
    /// The host whose build server builds what is owed; `None` when the fleet has none.
    pub build_server: Option<BuildServer>,
}

impl FleetView {
    /// Why the budget has no room for a step that disrupts a whole host, in words; `None` when it has.
    ///
    /// What is planned, and so disrupts something that works, has room only while fewer than so many other hosts are down,
    /// whoever took them down, as a PodDisruptionBudget counts. A recovery, of a host that is down itself, makes nothing
    /// worse: only hosts with such a step *under way* count against it. Otherwise two dead hosts would wait for each other.
    pub fn over_budget(&self, domain: Option<&str>, purpose: Purpose) -> Option<String> {
        let counts = |other: &&Disrupted| purpose == Purpose::Planned || other.under_way;
        let count = |words: &str, hosts: Vec<&Disrupted>, most: u32| {
            let names: Vec<&str> = hosts.iter().map(|other| other.host.as_str()).collect();
            (u32::try_from(hosts.len()).unwrap_or(u32::MAX) >= most).then(|| match names.first() {
                None => format!("the fleet's budget, which allows no host to be disrupted{words}"),
                Some(first) => {
                    format!("{first} to be well again: {} of {most} hosts are disrupted{words}", names.len())
                }
            })
        };
        let others = || self.disrupted.iter().filter(counts);
        count("", others().collect(), self.budget.max_disrupted).or_else(|| {
            let domain = domain?;
            let here = others().filter(|other| other.domain.as_deref() == Some(domain)).collect();
            count(&format!(" in {domain}"), here, self.budget.max_disrupted_per_domain)
        })
    }
}

/// A host of the fleet that does not do its work: it is in a step that disrupts it, or it is down, whoever took it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disrupted {
    /// The host's name.
    pub host: String,
    /// Its failure domain.
    pub domain: Option<String>,
    /// Whether a step that disrupts it is under way: its effect is awaited.
    pub under_way: bool,
}

/// The host with the build server, for the steps that are done there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildServer {
    /// The object's name.
    pub host: String,
    /// The object's UID.
    pub uid: String,
    /// The port on which it is asked, as the settings of its host say; `None` while they were not read.
    pub port: Option<u16>,
    /// Why nothing may be asked of it, in words: its mode, or that it is suspended.
    pub closed: Option<String>,
    /// Whether its clock, by which builds are begun, and the operator's are known to differ.
    pub clock_off: bool,
}
