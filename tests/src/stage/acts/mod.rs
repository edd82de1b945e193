//! The faults that the scenarios test and the demo shows: each is broken for real, seen by the operator, healed by it, and
//! the heal is seen in the world - the port answers, the rule is there once - and not only in a status.

mod apps;
mod database;
mod disks;
mod keys;
pub mod modules;
mod outage;
mod reach;
mod services;
mod web;
pub mod world;

use std::time::Duration;

use binder_crds::{ActionOutcome, BinderAction, conditions};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{NAMESPACE, Stage, StageError};
use crate::faults::Healer;

/// From the break until the operator says it.
///
/// A machine that hangs keeps a look waiting for half a minute first.
const SEEN_WITHIN: Duration = Duration::from_secs(120);
/// From the break until it is healed. `deploy-kubernetes` looks for its cluster every 20 s.
const HEALED_WITHIN: Duration = Duration::from_secs(300);

/// Apps come and go beside every act, since the health checker has one deployed every 40 s. The route of one that an earlier
/// act cut off is stale half a minute later, and goes while the next is being played.
pub const ANY_TIME: &str = "DeleteRoutes";
/// How that is said.
const ROUTES_STALE: &str = "RoutesStale";

/// One fault and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    /// The fault's name in `cargo lab break --list`.
    pub fault: &'static str,
    /// The host that it is on.
    pub host: &'static str,
    /// What a person calls it.
    pub title: &'static str,
    /// The condition that turns false.
    pub condition: &'static str,
    /// Its reason.
    pub reason: &'static str,
    /// The kinds of step that must have been done, in this order; none: the operator only says it.
    pub steps: &'static [&'static str],
    /// The kinds of step that may come on top, for what the fault brings on elsewhere at one time and not at another.
    pub consequences: &'static [&'static str],
    /// What of the world must be so again, in words.
    pub world: &'static str,
    /// Looks at it.
    pub look: Look,
    /// Whether the short demo plays it.
    pub in_demo: bool,
}

/// Looks at the world, past the operator: what was seen, or as an error what is not so yet.
pub type Look = for<'a> fn(&'a Stage) -> BoxFuture<'a, Result<String, String>>;

/// Every act, in order. Each module holds the rows of one kind.
pub fn all() -> impl Iterator<Item = &'static Act> {
    [
        web::ACTS,
        services::ACTS,
        disks::ACTS,
        reach::ACTS,
        apps::ACTS,
        outage::ACTS,
        database::ACTS,
        keys::ACTS,
        modules::ACTS,
    ]
    .into_iter()
    .flatten()
}

/// The acts of the short demo, in order.
pub fn short() -> impl Iterator<Item = &'static Act> {
    all().filter(|act| act.in_demo)
}

/// The act of a fault.
pub fn act(fault: &str) -> Option<&'static Act> {
    all().find(|act| act.fault == fault)
}

/// The one host that a fault is on.
pub fn host_of(fault: &str) -> Option<&'static str> {
    crate::faults::named(fault).ok()?.only_host()
}

/// What became of an act.
#[derive(Debug, Clone)]
pub struct Report {
    /// What really happened to the host.
    pub broken: &'static str,
    /// What the operator said, in its condition's words.
    pub saw: String,
    /// What `kubectl describe` said while it was broken.
    pub described: String,
    /// What the operator did: step, outcome, in the words of its BinderActions.
    pub did: Vec<(String, String)>,
    /// What was seen in the world after.
    pub verified: String,
    /// From the break until the operator said it.
    pub seen_after: Duration,
    /// From the break until all was well again.
    pub healed_after: Duration,
    /// How many attempts it took.
    pub attempts: usize,
}

/// An act did not go as it must.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// Something could not be done or did not become so.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// What comes after the fault did not come.
    #[error("after the fault: {0}")]
    Then(String),
    /// The operator did something else.
    #[error(
        "expected the steps {expected:?} to be done, in this order and all well, and on top nothing but {consequences:?}; done was {done:?}"
    )]
    OtherSteps {
        /// What had to be done.
        expected: &'static [&'static str],
        /// What might come on top.
        consequences: &'static [&'static str],
        /// What was done.
        done: Vec<(String, String)>,
    },
}

impl Act {
    /// What `kubectl describe` says of the host while it says the fault; one text, so that nothing in it is from later. Not while
    /// stale routes are said beside it: they can come at any time, and are deleted soon.
    async fn described(&self, stage: &Stage) -> Result<String, String> {
        let text = describe(stage, self.host).await.map_err(|error| crate::said(&error))?;
        // Events name reasons too, in columns of their own.
        let says = |reason| text.lines().any(|line| line.trim().strip_prefix("Reason:").map(str::trim) == Some(reason));
        let beside = self.reason != ROUTES_STALE && says(ROUTES_STALE);
        if says(self.reason) && !beside { Ok(text) } else { Err(message_of(&text, "AsDescribed")) }
    }

    /// Whether every step of the act was done, in order and well, and on top of them only what may come on top.
    fn accepts(&self, done: &[(&str, Option<ActionOutcome>)]) -> bool {
        let mut wanted = self.steps.iter().peekable();
        for (step, outcome) in done {
            if *outcome == Some(ActionOutcome::Succeeded) && wanted.next_if(|next| *next == step).is_some() {
                continue;
            }
            if !self.consequences.contains(step) && *step != ANY_TIME {
                return false;
            }
        }
        wanted.peek().is_none()
    }

    /// Plays the act on a stage whose host is healthy: break, see, heal, verify.
    ///
    /// # Errors
    /// Any of it did not happen.
    pub async fn play(&self, stage: &Stage, mut tell: impl FnMut(&str)) -> Result<Report, ActError> {
        stage.calm(HEALED_WITHIN).await?;
        tell("calm:     every host is healthy, and has been for a while");
        let fault = stage.lab.fault(self.fault).map_err(StageError::from)?;
        let mark = stage.mark(self.host).await?;
        fault.break_on(&stage.lab, Some(self.host)).await.map_err(StageError::from)?;
        if let Some((_, then)) = disks::THEN.iter().chain(modules::THEN).find(|(fault, _)| *fault == self.fault) {
            let came = then(stage).await.map_err(ActError::Then)?;
            tell(&format!("then:     {came}"));
        }
        // Counted from here: some faults take a while to bring about, and are none before they are whole.
        let began = Instant::now();
        tell(&format!("broken:   {}", fault.does));

        let described = stage.until(&format!("{} is said", self.reason), SEEN_WITHIN, || self.described(stage)).await?;
        let seen_after = began.elapsed();
        let saw = message_of(&described, self.reason);
        tell(&format!("seen:     {} {}: {saw}", self.condition, self.reason));

        if fault.healed_by == Healer::Mend {
            // Nothing is to be done about it by the operator; the person that it calls takes the cause away.
            stage.condition(self.host, conditions::STALLED, "True", None, SEEN_WITHIN).await?;
            fault.mend_on(&stage.lab, Some(self.host)).await.map_err(StageError::from)?;
        }
        stage.healthy(&[self.host], HEALED_WITHIN).await?;
        let verified =
            stage.until(&format!("{} in the world", self.world), HEALED_WITHIN, || (self.look)(stage)).await?;
        let healed_after = began.elapsed();

        let actions = stage.all_actions_since(self.host, &mark).await?;
        let did: Vec<(String, String)> = actions.iter().map(told).collect();
        for (step, outcome) in &did {
            tell(&format!("did:      {step}: {outcome}"));
        }
        tell(&format!("verified: {verified}"));
        let outcomes: Vec<(&str, Option<ActionOutcome>)> = actions
            .iter()
            .map(|action| (action.spec.step.as_str(), action.status.as_ref().and_then(|status| status.outcome)))
            .collect();
        if !self.accepts(&outcomes) {
            return Err(ActError::OtherSteps { expected: self.steps, consequences: self.consequences, done: did });
        }
        Ok(Report { broken: fault.does, saw, described, attempts: did.len(), did, verified, seen_after, healed_after })
    }
}

/// `kubectl describe` of one host.
///
/// # Errors
/// It cannot be had.
pub async fn describe(stage: &Stage, host: &str) -> Result<String, StageError> {
    Ok(stage.kubectl.run(&["-n", NAMESPACE, "describe", "bh", host]).await?)
}

/// The message of the condition with this reason, in the words of `kubectl describe`.
fn message_of(described: &str, reason: &str) -> String {
    let value = |line: &str, key: &str| line.trim().strip_prefix(key).map(|rest| rest.trim().to_owned());
    let mut last = String::new();
    for line in described.lines() {
        if let Some(message) = value(line, "Message:") {
            last = message;
        } else if value(line, "Reason:").as_deref() == Some(reason) {
            return last;
        }
    }
    String::new()
}

fn told(action: &BinderAction) -> (String, String) {
    let status = action.status.clone().unwrap_or_default();
    let outcome = status.outcome.map_or("no outcome yet", ActionOutcome::as_str);
    (action.spec.description.clone(), format!("{outcome}, {}", status.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the README's table of faults: fault, page, all of it.
    fn rows(readme: &str) -> Vec<(String, String, String)> {
        readme
            .lines()
            .filter_map(|line| {
                let (fault, rest) = line.strip_prefix("| [`")?.split_once("`](")?;
                let (page, _) = rest.split_once(')')?;
                Some((fault.to_owned(), page.to_owned(), line.to_owned()))
            })
            .collect()
    }

    #[test]
    fn the_readme_tells_every_act_as_it_is_played() {
        let root = super::super::workspace();
        let readme = std::fs::read_to_string(root.join("README.md")).unwrap_or_default();
        let rows = rows(&readme);
        for act in all() {
            let row = rows.iter().find(|(fault, ..)| fault == act.fault);
            let Some((_, page, text)) = row else { panic!("README.md has no row for {}", act.fault) };
            assert!(root.join(page).is_file(), "{}: {page} is not there", act.fault);
            for word in [act.condition, act.reason] {
                assert!(text.contains(&format!("`{word}`")), "the row of {} does not name {word}", act.fault);
            }
        }
        for (fault, ..) in &rows {
            assert!(crate::faults::named(fault).is_ok(), "README.md has a row for {fault}, which is no fault");
        }
    }

    #[test]
    fn an_act_wants_its_steps_in_order_and_only_known_ones_on_top() {
        let act = Act { steps: &["End", "Start"], consequences: &["Delete", "Start"], ..web::ACTS[0] };
        let (well, failed) = (Some(ActionOutcome::Succeeded), Some(ActionOutcome::Failed));
        for (done, accepted) in [
            (&[("End", well), ("Start", well)][..], true),
            (&[("End", well), ("Start", well), ("Delete", failed), ("Delete", well), ("Start", well)], true),
            (&[("End", well), ("Start", failed), ("Start", well)], true),
            (&[("End", failed), ("End", well), ("Start", well)], false),
            (&[("Start", well), ("End", well)], false),
            (&[("End", well)], false),
            (&[("End", well), ("Start", well), ("Reboot", well)], false),
            (&[("DeleteRoutes", well), ("End", well), ("Start", well)], true),
            (&[("End", well), ("Start", None)], false),
        ] {
            assert_eq!(act.accepts(done), accepted, "{done:?}");
        }
    }

    #[test]
    fn every_act_has_its_fault() {
        for act in all() {
            assert!(crate::faults::named(act.fault).is_ok(), "{} is no fault", act.fault);
        }
    }
}
