//! Restarts that climb, and why: the cause where a log or a port tells it. What is healed is the cause and never the count.

use super::{Found, drifted};
use crate::catalogue::{self, Cause, Component};
use crate::facets::DriftKind;
use crate::seen::Observation;
use crate::seen::crashes::Crash;
use crate::seen::pm2::{Row, State};
use crate::seen::restarts::Climb;
use jiff::SignedDuration;

/// A climb that is younger may be a server that only waits for its database to come up.
const PATIENCE: SignedDuration = SignedDuration::from_secs(20);

/// An error in a log says why something happened only if it was written shortly before.
const RECENT: i64 = 180;

/// How long, in seconds, pm2 may take from the last words of a process until it has started it again.
const LAST_WORDS: i64 = 10;

/// How long, in seconds, what the next process says at its start (warnings of Node's) may hide when the last one spoke last: the
/// time of a log is that of all of it.
const FIRST_WORDS: i64 = 10;

/// Whether pm2 restarts the component, or a child that it needs, again and again.
pub(super) fn climb<'c>(component: &'c Component, seen: &Observation) -> Option<(&'c str, Climb)> {
    // A `binder-kubernetes-proxy` whose port is served by hand restarts until pm2 gives it up: no fault by itself.
    let required = component.children.iter().filter(|child| child.required).map(|child| child.process.as_str());
    std::iter::once(component.process.as_str())
        .chain(required)
        .find_map(|process| seen.climbing.get(process).map(|climb| (process, *climb)))
}

/// What a climb comes to: on its way, or a difference.
pub(super) fn look(component: &Component, seen: &Observation) -> Option<Found> {
    let (process, climb) = climb(component, seen)?;
    if !climb.goes_on() {
        return Some(Found::Progressing(format!(
            "{process} was restarted again and again and has been quiet since: it is watched for a while"
        )));
    }
    if climb.lasting < PATIENCE {
        return Some(Found::Progressing(format!("pm2 restarts {process} again and again")));
    }
    Some(drifted(
        component,
        DriftKind::RestartsClimbing,
        "restarts again and again",
        format!("pm2 restarted {process} {} within 10 minutes and goes on{}", climb.words(), why(component, seen)),
    ))
}

/// The cause that is known of a crash, outside of the component itself. That its memory ran out tells of no cause: it may be
/// the component's own.
pub(super) fn cause(component: &Component, seen: &Observation) -> Option<Cause> {
    let (_, crash) = crash(component, seen)?;
    catalogue::cause(&component.name, &crash.line, &crash.modules).filter(|cause| *cause != Cause::OutOfMemory)
}

/// Why it ends, as a part of a sentence; nothing if nobody knows.
pub(super) fn why(component: &Component, seen: &Observation) -> String {
    let Some((process, crash)) = crash(component, seen) else { return String::new() };
    let who = if process == component.process { "it".to_owned() } else { process.to_owned() };
    let what = match catalogue::cause(&component.name, &crash.line, &crash.modules) {
        Some(Cause::Database) => "it cannot reach its database".to_owned(),
        Some(Cause::Logging) => "it cannot reach the log collector".to_owned(),
        Some(Cause::PortTaken) => "its port is taken".to_owned(),
        Some(Cause::OutOfMemory) => format!("{who} ran out of memory"),
        Some(Cause::KubeStream) => {
            format!("{who} crashes in kube-stream, which leaves errors of its connection to the cluster unhandled")
        }
        None => match (crash.modules.first(), crash.modules.last()) {
            (Some(module), Some(outer)) if module != outer => {
                format!("{who} crashes in the module {module}, called by {outer}")
            }
            (Some(module), _) => format!("{who} crashes in the module {module}"),
            (None, _) => format!("{who} crashes"),
        },
    };
    format!(": {what} (last error in its log: {})", crash.line)
}

/// That it crashed in kube-stream a moment ago, as a part of a sentence: why pm2 lost it, or left children over.
pub(super) fn after_kube_stream(component: &Component, seen: &Observation) -> String {
    // What climbs beside it (a child, say) has a log of its own.
    let crash = last_words(component, seen, Some(&component.process));
    match crash.and_then(|(_, crash)| catalogue::cause(&component.name, &crash.line, &crash.modules)) {
        Some(Cause::KubeStream) => "; it crashed in kube-stream".to_owned(),
        Some(Cause::Database | Cause::Logging | Cause::PortTaken | Cause::OutOfMemory) | None => String::new(),
    }
}

/// The last words of a part of the component: of the one that climbs, if one does.
fn crash<'s>(component: &'s Component, seen: &'s Observation) -> Option<(&'s str, &'s Crash)> {
    last_words(component, seen, climb(component, seen).map(|(process, _)| process))
}

/// The last words of a part of the component, of any or of the one of this name.
fn last_words<'s>(component: &'s Component, seen: &'s Observation, of: Option<&str>) -> Option<(&'s str, &'s Crash)> {
    let (machine, table, crashes) = (seen.machine.seen()?, seen.pm2.seen()?, seen.crashes.seen()?);
    component
        .processes()
        .filter(|process| of.is_none_or(|of| of == *process))
        .filter_map(|process| crashes.get(process).map(|crash| (process, crash)))
        .find(|(process, crash)| {
            let recent = machine.clock.saturating_sub(crash.written) <= RECENT;
            recent && table.named(process).max_by_key(|row| row.started_ms).is_none_or(|row| ended_with(row, crash))
        })
}

/// Whether a log's last words are the end of the process's last life. An error that nobody handles ends the process, and pm2
/// starts it again at once: what was written long before the start of the one that runs was survived, and something else ended
/// it (the kernel, when memory ran out); what came long after is of the one that still runs. Of one that does not run, the last
/// life began when pm2 says.
fn ended_with(row: &Row, crash: &Crash) -> bool {
    let after = crash.written.saturating_sub(row.started_ms / 1000);
    match row.state {
        State::Stopped | State::Errored => after >= -1,
        State::Online | State::Launching | State::Stopping | State::Other => {
            (-LAST_WORDS..=FIRST_WORDS).contains(&after)
        }
    }
}
