//! When a fleet allows disruption: its maintenance windows.
//!
//! Pure. A window holds what is for it (`for`: by default only what is planned). A purpose that no window is for is always
//! allowed; a window that cannot be read is none that could be open.
//!
//! What is planned and what is a recovery is [`purpose`]'s to say: who is dead has nothing left to disrupt, and does not
//! wait for the night.

use super::Checked;
use crate::catalogue::{self, Component};
use crate::facets::step::Recovers;
use crate::facets::{Check, DriftKind, Step};
use crate::schedule::Timetable;
use binder_crds::fleet::{Purpose, Window};
use binder_crds::{Desired, conditions};
use jiff::{SignedDuration, Timestamp};

/// Whether a step that disrupts a whole host may be done now, as far as windows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// It may: no window is for it, or one of those that are is open.
    Open,
    /// It may not, until the next one opens; `None` if none ever does.
    Closed(Option<Timestamp>),
}

/// Asks all windows of a fleet that are for a purpose.
pub fn ask(windows: &[Window], purpose: Purpose, now: Timestamp) -> Windows {
    let mut any = false;
    let mut next: Option<Timestamp> = None;
    for window in windows.iter().filter(|window| is_for(window, purpose)) {
        any = true;
        let Ok((table, lasts)) = read(window) else { continue };
        // It is open if it opened within its duration: the first opening after that moment has come.
        let since = now.checked_sub(lasts).unwrap_or(Timestamp::MIN);
        match table.next_after(since) {
            Some(opened) if opened <= now => return Windows::Open,
            Some(opens) => next = Some(next.map_or(opens, |known| known.min(opens))),
            None => {}
        }
    }
    if any { Windows::Closed(next) } else { Windows::Open }
}

/// Windows that can never open: each with its place in the list and why, in the owner's words.
pub fn never_open(windows: &[Window]) -> Vec<(usize, String)> {
    windows.iter().enumerate().filter_map(|(place, window)| Some((place, read(window).err()?))).collect()
}

/// An object that is older than the schema may have none: then it is for what is planned, which is the default.
fn is_for(window: &Window, purpose: Purpose) -> bool {
    window.holds.contains(&purpose) || (window.holds.is_empty() && purpose == Purpose::Planned)
}

fn read(window: &Window) -> Result<(Timetable, SignedDuration), String> {
    let table = Timetable::read(&window.schedule, window.time_zone.as_ref()).map_err(|bad| bad.to_string())?;
    let lasts = window.duration.duration().map_err(|bad| format!("its duration is {bad}"))?;
    // What is longer than the calendar is open for good.
    Ok((table, SignedDuration::try_from(lasts).unwrap_or(SignedDuration::MAX)))
}

/// Why a step that takes turns is done: to recover what is dead, or else as something planned.
///
/// | Step | Purpose |
/// |---|---|
/// | power-cycle, power-on | recovery: who is silent or off serves nobody |
/// | restart of a node that is not Ready | recovery |
/// | reboot, for a Kubernetes API that does not answer, or one so short of memory that nobody can use it | recovery |
/// | reboot, when *every* described service of the machine is down | recovery |
/// | a new version of a module, when everything here that uses it is down | recovery |
/// | reboot of a machine of which anything still serves; any other new version; what could not all be seen | planned |
///
/// Services are what pm2 is described to run. A kubectl proxy, a redirect or Docker is no service of its own here: a
/// machine of which only those are described is not taken for dead by them.
pub fn purpose(step: &Step, drift: DriftKind, desired: &Desired, checks: &[Checked]) -> Purpose {
    let recovers = match step.nature().recovers {
        Recovers::Nothing => false,
        Recovers::TheDead => true,
        Recovers::MachineThatServesNothing => {
            drift.is_machine_down() || all_down(&catalogue::described(desired), checks)
        }
        Recovers::UsersOfModule => step.changes_module().is_some_and(|change| {
            let modules = desired.modules.iter().filter(|module| module.name == change.module);
            let users: Vec<Component> = modules.flat_map(|module| catalogue::users(desired, module)).collect();
            all_down(&users, checks)
        }),
    };
    if recovers { Purpose::Recovery } else { Purpose::Planned }
}

fn all_down(components: &[Component], checks: &[Checked]) -> bool {
    let services = checks.iter().find(|checked| checked.condition == conditions::SERVICES_RUNNING);
    let Some(Ok(check)) = services.map(|checked| &checked.result) else { return false };
    !components.is_empty() && components.iter().all(|component| is_down(check, component))
}

/// Whether a component is seen not to serve.
fn is_down(check: &Check, component: &Component) -> bool {
    check.drifts.iter().any(|drift| drift.subject.is(component) && drift.kind.is_down())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::facets::machine;
    use crate::facets::modules::{self, ModuleChange};
    use crate::facets::{Drift, Subject};
    use binder_crds::desired::{Module, Server};
    use binder_crds::text::{Schedule, Span, TimeZone};

    fn window(schedule: &str, zone: Option<&str>, lasts: &str) -> Window {
        Window {
            holds: Vec::new(),
            schedule: Schedule::from(schedule),
            time_zone: zone.map(TimeZone::from),
            duration: Span::from(lasts),
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_is_open_from_its_moment_for_its_duration_in_its_zone() {
        let nightly = [window("0 3 * * *", Some("Europe/Berlin"), "3h")];
        // 03:00 in Berlin is 01:00 UTC in summer and 02:00 UTC in winter.
        for (moment, wanted) in [
            ("2026-07-01T00:59:59Z", Windows::Closed(Some(at("2026-07-01T01:00:00Z")))),
            ("2026-07-01T01:00:00Z", Windows::Open),
            ("2026-07-01T03:59:59Z", Windows::Open),
            ("2026-07-01T04:00:00Z", Windows::Closed(Some(at("2026-07-02T01:00:00Z")))),
            ("2026-01-15T01:30:00Z", Windows::Closed(Some(at("2026-01-15T02:00:00Z")))),
            ("2026-01-15T02:30:00Z", Windows::Open),
        ] {
            assert_eq!(ask(&nightly, Purpose::Planned, at(moment)), wanted, "{moment}");
        }
    }

    #[test]
    fn no_window_is_always_and_one_of_several_is_enough() {
        let now = at("2026-07-01T12:00:00Z");
        let planned = |windows: &[Window]| ask(windows, Purpose::Planned, now);
        assert_eq!(planned(&[]), Windows::Open);
        assert_eq!(planned(&[window("0 3 * * *", None, "1h"), window("0 11 * * *", None, "2h")]), Windows::Open);
        // What cannot be read opens nothing.
        assert_eq!(planned(&[window("61 3 * * *", None, "1h")]), Windows::Closed(None));
        assert_eq!(planned(&[window("0 3 * * *", None, "soon")]), Windows::Closed(None));
    }

    #[test]
    fn a_window_holds_what_it_is_for_and_nothing_else() {
        let noon = at("2026-07-01T12:00:00Z");
        let night = |holds: &[Purpose]| Window { holds: holds.to_vec(), ..window("0 3 * * *", None, "1h") };
        let closed = Windows::Closed(Some(at("2026-07-02T03:00:00Z")));
        let (planned, recovery) = (Purpose::Planned, Purpose::Recovery);
        for (windows, of_planned, of_recovery) in [
            (vec![night(&[])], closed, Windows::Open),
            (vec![night(&[planned])], closed, Windows::Open),
            (vec![night(&[recovery])], Windows::Open, closed),
            (vec![night(&[planned, recovery])], closed, closed),
            (vec![night(&[planned]), night(&[recovery])], closed, closed),
        ] {
            assert_eq!(ask(&windows, planned, noon), of_planned, "{windows:?}");
            assert_eq!(ask(&windows, recovery, noon), of_recovery, "{windows:?}");
        }
    }

    #[test]
    fn a_window_that_can_never_open_is_told_with_its_place() {
        let good = window("0 3 29 2 *", Some("Europe/Berlin"), "1h");
        assert!(never_open(std::slice::from_ref(&good)).is_empty());
        for (bad, says) in [
            (window("0 3 30 2 *", None, "1h"), "never comes"),
            (window("61 3 * * *", None, "1h"), "a field that cron does not know"),
            (window("0 3 * * *", Some("Europe/Atlantis"), "1h"), "no time zone"),
            (window("0 3 * * *", None, "0s"), "its duration is"),
            (window("0 3 * * *", None, "soon"), "its duration is"),
        ] {
            let told = never_open(&[good.clone(), bad.clone()]);
            assert!(told.len() == 1 && told[0].0 == 1 && told[0].1.contains(says), "{bad:?}: {told:?}");
        }
    }

    fn down(kinds: &[(&str, DriftKind)]) -> Vec<Checked> {
        let drift = |(subject, kind): &(&str, DriftKind)| Drift {
            kind: *kind,
            subject: Subject::named(subject),
            short: String::new(),
            evidence: String::new(),
        };
        let check = Check { drifts: kinds.iter().map(drift).collect(), ..Check::default() };
        vec![Checked { condition: conditions::SERVICES_RUNNING, result: Ok(check), due: Vec::new() }]
    }

    #[test]
    fn a_reboot_recovers_only_a_machine_of_which_nothing_serves() {
        use DriftKind::{ApiNotAnswering, ApiSlow, LostByPm2, NotListening, ProcessErrored, ProcessMissing};
        let desired = Desired { servers: vec![Server::Web, Server::Build], ..Desired::default() };
        let reboot = machine::Step::Reboot { boot_id: "one".to_owned() }.into();
        let of = |drift, checks: &[Checked]| purpose(&reboot, drift, &desired, checks);
        let both = down(&[("web", ProcessErrored), ("build", NotListening)]);
        assert_eq!(of(ProcessErrored, &both), Purpose::Recovery);
        assert_eq!(of(ProcessErrored, &down(&[("web", ProcessErrored)])), Purpose::Planned, "build serves");
        assert_eq!(of(ProcessMissing, &down(&[("web", ProcessMissing), ("build", LostByPm2)])), Purpose::Planned);
        assert_eq!(of(ProcessMissing, &[]), Purpose::Planned, "what could not be seen is not down");
        assert_eq!(of(ApiNotAnswering, &[]), Purpose::Recovery);
        assert_eq!(of(ApiSlow, &[]), Purpose::Planned);
        let nothing = purpose(&reboot, DriftKind::NothingListens, &Desired::default(), &both);
        assert_eq!(nothing, Purpose::Planned, "no service is described");
        let change: ModuleChange = serde_json::from_value(serde_json::json!({
            "module": "binder-web", "place": "/opt/binder", "global": false, "from": "1.1.17", "to": "1.1.18", "scripts": false,
        }))
        .unwrap();
        let module = Module { name: change.module.clone(), version: change.to.clone(), ..Module::default() };
        let desired = Desired { modules: vec![module], ..desired };
        let install = modules::Step::InstallModule { change }.into();
        let of = |checks: &[Checked]| purpose(&install, DriftKind::ModuleOld, &desired, checks);
        assert_eq!(of(&down(&[])), Purpose::Planned);
        assert_eq!(of(&down(&[("web", ProcessErrored)])), Purpose::Recovery, "what uses it is down");
        let cycle = machine::Step::PowerCycle { boot_id: None }.into();
        assert_eq!(purpose(&cycle, DriftKind::HostSilent, &desired, &[]), Purpose::Recovery);
    }
}
