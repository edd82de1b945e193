//! Chores: work that comes by the clock ([`Task`]), beside the drifts. A task that is due is no fault: the host stays
//! healthy, no incident begins, and it waits until nothing else is to be done. What it shares with a remedy is everything
//! that keeps a step safe: gate, attempts, BinderActions, effects judged by looking.
//!
//! `status.schedules` is the memory: when a run is due next is worked out once, when the run before it has ended (or the
//! schedule is a new one), and written down. So nothing is written while nothing is due, a restart forgets nothing however
//! long it takes, and BinderActions may be deleted. A moment that has passed is due until it is done, and then the next
//! one is worked out from now: whatever was missed is made up once.

use super::memory::History;
use super::{Checked, Host};
use crate::facets::{Done, Drift, Facet, Subject, Task};
use crate::schedule::{DEFAULT_ZONE, Timetable};
use crate::seen::Observation;
use binder_crds::ActionOutcome;
use binder_crds::host::ScheduleStatus;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// `lastOutcome` of a run that did all there was to do.
pub const DONE: &str = "Done";
/// `lastOutcome` of a run whose attempts were used up.
pub const FAILED: &str = "Failed";

/// Works out what is due: puts it into `checks`, and gives `status.schedules` as it is to be. `allowed` is how many attempts
/// one run has.
pub(super) fn due(
    facets: &[&dyn Facet],
    host: &Host<'_>,
    seen: &Observation,
    checks: &mut [Checked],
    memory: &History,
    allowed: u32,
    now: Timestamp,
) -> Vec<ScheduleStatus> {
    let desired = &host.spec.desired;
    let mut schedules = Vec::new();
    for facet in facets.iter().filter(|facet| facet.in_use(desired)) {
        for task in facet.scheduled(desired) {
            // One that cannot be read is a difference, which its facet tells; it has no next run.
            let Ok(table) = Timetable::read(&task.schedule, task.time_zone.as_ref()) else { continue };
            let Some(mut status) = planned(&task, &table, host, now) else { continue };
            let checked = checks.iter_mut().find(|checked| checked.condition == facet.condition());
            // What cannot be seen cannot be done, and what is wrong comes first: it stays due.
            let ready = |checked: &&mut Checked| {
                checked.result.as_ref().is_ok_and(|check| check.drifts.is_empty() && check.progressing.is_empty())
            };
            if let Some(checked) = checked.filter(|checked| status.next_run.0 <= now && ready(checked)) {
                let drift = stands_for(&task, status.next_run.0);
                match ended(*facet, host, seen, &task, &drift, memory, allowed) {
                    Some(outcome) => {
                        let next = table.next_after(now);
                        status.last_run = Some(Time(whole_seconds(now)));
                        status.last_outcome = outcome.to_owned();
                        status.next_run = Time(whole_seconds(next.unwrap_or(Timestamp::MAX)));
                    }
                    None => checked.due.push(drift),
                }
            }
            schedules.push(status);
        }
    }
    schedules
}

/// What was written down of a task, or its first entry. A new schedule counts from now: it does not make up what came
/// before it.
fn planned(task: &Task, table: &Timetable, host: &Host<'_>, now: Timestamp) -> Option<ScheduleStatus> {
    let name = task.subject.to_string();
    let zone = task.time_zone.as_ref().map_or(DEFAULT_ZONE, |zone| zone.0.as_str());
    let known = host.previous.schedules.iter().find(|known| known.name == name);
    if let Some(same) = known.filter(|known| known.schedule == task.schedule.0 && known.time_zone == zone) {
        return Some(same.clone());
    }
    Some(ScheduleStatus {
        name,
        schedule: task.schedule.0.clone(),
        time_zone: zone.to_owned(),
        next_run: Time(table.next_after(now)?),
        last_run: known.and_then(|known| known.last_run.clone()),
        last_outcome: known.map(|known| known.last_outcome.clone()).unwrap_or_default(),
    })
}

fn stands_for(task: &Task, since: Timestamp) -> Drift {
    Drift {
        kind: task.kind,
        subject: task.subject.clone(),
        short: format!("{} is due", task.words),
        evidence: format!("{} has been due since {since}", task.words),
    }
}

/// How the run that is due has ended, if it has.
fn ended(
    facet: &dyn Facet,
    host: &Host<'_>,
    seen: &Observation,
    task: &Task,
    drift: &Drift,
    memory: &History,
    allowed: u32,
) -> Option<&'static str> {
    let name = task.subject.to_string();
    if memory.open().any(|past| past.subject == name) {
        return None;
    }
    let since = host.previous.schedules.iter().find(|known| known.name == name).map(|known| known.next_run.0);
    let ladder = facet.ladder(&host.spec.desired, seen, drift);
    let succeeded = ladder.iter().any(|rung| {
        let mut attempts = memory.attempts(&rung.step, &task.subject, since);
        attempts.any(|past| past.outcome == Some(ActionOutcome::Succeeded))
    });
    if ladder.is_empty() {
        return (task.done == Done::NothingLeft).then_some(DONE);
    }
    if task.done == Done::Once && succeeded {
        return Some(DONE);
    }
    let used_up = ladder.iter().all(|rung| memory.made(&rung.step, &task.subject, since) >= allowed);
    used_up.then_some(FAILED)
}

/// As the API keeps times.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Since when the attempts at a task's run count: since it was due.
pub(super) fn due_since(schedules: &[ScheduleStatus], task: &Subject) -> Option<Timestamp> {
    let name = task.to_string();
    schedules.iter().find(|status| status.name == name).map(|status| status.next_run.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::facets::{Check, DriftKind, Rung, Step, docker};
    use crate::plan::memory::Attempt;
    use crate::seen::{Ask, Reason, Unknown};
    use binder_crds::text::Schedule;
    use binder_crds::{BinderHostSpec, BinderHostStatus, Desired, Mode};
    use std::time::Duration;

    /// A facet with one task, daily at three; which of its two ways of being done, and whether a step is left, is told by
    /// the description, for want of anything else that reaches a facet.
    struct Daily;

    const DAILY: Subject = Subject::DockerReclaim;
    fn step() -> Step {
        docker::Step::RestartDocker.into()
    }

    impl Facet for Daily {
        fn condition(&self) -> &'static str {
            "DailyDone"
        }
        fn in_use(&self, _: &Desired) -> bool {
            true
        }
        fn asks(&self, _: &Desired) -> Vec<Ask> {
            Vec::new()
        }
        fn check(&self, _: &Desired, _: &Observation) -> Result<Check, Unknown> {
            Ok(Check::default())
        }
        fn rank(&self, _: &Desired, _: &Drift) -> u8 {
            crate::facets::LAST
        }
        fn ladder(&self, desired: &Desired, _: &Observation, drift: &Drift) -> Vec<Rung> {
            assert_eq!((drift.kind, &drift.subject), (DriftKind::ReclaimDue, &DAILY));
            let left = desired.servers.is_empty();
            if left { vec![Rung::new(step(), Duration::from_secs(9))] } else { Vec::new() }
        }
        fn scheduled(&self, desired: &Desired) -> Vec<Task> {
            vec![Task {
                subject: DAILY,
                kind: DriftKind::ReclaimDue,
                words: "the daily work",
                schedule: Schedule::from(if desired.services.is_empty() { "0 3 * * *" } else { "0 4 * * *" }),
                time_zone: None,
                done: if desired.docker.is_some() { Done::Once } else { Done::NothingLeft },
            }]
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// One pass: what is due, and `status.schedules`, which is kept as the API would.
    fn pass(
        desired: &Desired,
        previous: &mut BinderHostStatus,
        memory: &History,
        blind: bool,
        now: &str,
    ) -> (usize, bool) {
        let spec = BinderHostSpec { desired: desired.clone(), ..BinderHostSpec::default() };
        let host = Host {
            name: "web",
            uid: "uid-1",
            generation: 1,
            spec: &spec,
            mode: Mode::Enforce,
            suspended: None,
            previous,
            demanded: &crate::plan::evidence::Demanded::default(),
        };
        let unseen = Unknown { reason: Reason::ProbeTimedOut, message: "took too long".to_owned() };
        let result = if blind { Err(unseen) } else { Ok(Check::default()) };
        let mut checks = [Checked { condition: "DailyDone", result, due: Vec::new() }];
        let now = at(now);
        let schedules = due(&[&Daily], &host, &Observation::nothing(now), &mut checks, memory, 3, now);
        let written = serde_json::from_value(serde_json::to_value(&schedules).unwrap()).unwrap();
        let wrote = previous.schedules != written;
        previous.schedules = written;
        (checks[0].due.len(), wrote)
    }

    fn attempt(created: &str, outcome: Option<ActionOutcome>) -> Attempt {
        Attempt {
            name: created.to_owned(),
            uid: String::new(),
            step: Some(step()),
            kind: step().kind().to_owned(),
            subject: DAILY.to_string(),
            words: String::new(),
            attempt: 1,
            created: at(created),
            deadline: at(created),
            sent_at: None,
            said: String::new(),
            outcome,
            finished_at: None,
            message: String::new(),
        }
    }

    fn nothing_left() -> Desired {
        Desired { servers: vec![binder_crds::desired::Server::Web], ..Desired::default() }
    }

    #[test]
    fn the_next_run_is_written_once_and_nothing_in_between() {
        let (mut status, memory) = (BinderHostStatus::default(), History::default());
        assert_eq!(pass(&nothing_left(), &mut status, &memory, false, "2026-05-01T12:00:00.5Z"), (0, true));
        assert_eq!(status.schedules[0].next_run.0, at("2026-05-02T03:00:00Z"));
        assert_eq!(status.schedules[0].last_run, None);
        for now in ["2026-05-01T12:00:30.5Z", "2026-05-02T02:59:59.9Z"] {
            assert_eq!(pass(&nothing_left(), &mut status, &memory, false, now), (0, false));
        }
        // Due, and nothing is left to do: done at once.
        assert_eq!(pass(&nothing_left(), &mut status, &memory, false, "2026-05-02T03:00:01.5Z"), (0, true));
        assert_eq!(status.schedules[0].last_run.as_ref().unwrap().0, at("2026-05-02T03:00:01Z"));
        assert_eq!(status.schedules[0].last_outcome, DONE);
        assert_eq!(status.schedules[0].next_run.0, at("2026-05-03T03:00:00Z"));
        assert_eq!(pass(&nothing_left(), &mut status, &memory, false, "2026-05-02T03:00:31.5Z"), (0, false));
    }

    #[test]
    fn missed_runs_are_made_up_once() {
        let (mut status, memory) = (BinderHostStatus::default(), History::default());
        pass(&Desired::default(), &mut status, &memory, false, "2026-05-01T12:00:00Z");
        // Four days later, after the operator was away.
        assert_eq!(pass(&Desired::default(), &mut status, &memory, false, "2026-05-05T12:00:00Z"), (1, false));
        assert_eq!(pass(&nothing_left(), &mut status, &memory, false, "2026-05-05T12:00:09Z"), (0, true));
        assert_eq!(status.schedules[0].next_run.0, at("2026-05-06T03:00:00Z"));
        assert_eq!(pass(&Desired::default(), &mut status, &memory, false, "2026-05-05T12:00:39Z"), (0, false));
    }

    #[test]
    fn work_that_is_done_once_is_done_by_one_success_since_it_was_due() {
        let once = Desired { docker: Some(binder_crds::desired::Docker::default()), ..Desired::default() };
        let mut status = BinderHostStatus::default();
        let mut memory = History { actions: vec![attempt("2026-05-01T03:00:05Z", Some(ActionOutcome::Succeeded))] };
        pass(&once, &mut status, &memory, false, "2026-05-01T12:00:00Z");
        assert_eq!(pass(&once, &mut status, &memory, false, "2026-05-02T03:00:00Z"), (1, false), "not by yesterday's");
        memory.actions.push(attempt("2026-05-02T03:00:01Z", None));
        assert_eq!(pass(&once, &mut status, &memory, false, "2026-05-02T03:00:02Z"), (1, false), "under way");
        memory.actions[1].outcome = Some(ActionOutcome::Succeeded);
        assert_eq!(pass(&once, &mut status, &memory, false, "2026-05-02T03:00:04Z"), (0, true));
        assert_eq!(status.schedules[0].last_outcome, DONE);
    }

    #[test]
    fn a_run_whose_attempts_are_used_up_has_failed_and_the_next_one_is_a_new_one() {
        let (mut status, mut memory) = (BinderHostStatus::default(), History::default());
        pass(&Desired::default(), &mut status, &memory, false, "2026-05-01T12:00:00Z");
        for second in 1..=2 {
            memory.actions.push(attempt(&format!("2026-05-02T03:00:0{second}Z"), Some(ActionOutcome::Failed)));
            assert_eq!(pass(&Desired::default(), &mut status, &memory, false, "2026-05-02T03:00:09Z"), (1, false));
        }
        memory.actions.push(attempt("2026-05-02T03:00:10Z", Some(ActionOutcome::Unknown)));
        assert_eq!(pass(&Desired::default(), &mut status, &memory, false, "2026-05-02T03:00:11Z"), (0, true));
        assert_eq!(status.schedules[0].last_outcome, FAILED);
        assert_eq!(pass(&Desired::default(), &mut status, &memory, false, "2026-05-03T03:00:00Z"), (1, false));
    }

    #[test]
    fn what_cannot_be_seen_stays_due() {
        let (mut status, memory) = (BinderHostStatus::default(), History::default());
        pass(&nothing_left(), &mut status, &memory, false, "2026-05-01T12:00:00Z");
        assert_eq!(pass(&nothing_left(), &mut status, &memory, true, "2026-05-02T03:00:01Z"), (0, false));
        assert_eq!(pass(&nothing_left(), &mut status, &memory, false, "2026-05-02T03:00:31Z"), (0, true));
    }

    #[test]
    fn another_schedule_counts_from_now() {
        let (mut status, memory) = (BinderHostStatus::default(), History::default());
        pass(&nothing_left(), &mut status, &memory, false, "2026-05-01T12:00:00Z");
        let four = Desired { services: vec![binder_crds::desired::Service::Db], ..Desired::default() };
        assert_eq!(pass(&four, &mut status, &memory, false, "2026-05-07T12:00:00Z"), (0, true));
        assert_eq!(status.schedules[0].next_run.0, at("2026-05-08T04:00:00Z"));
    }
}
