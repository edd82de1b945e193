//! Facet `modules`: each npm module has exactly the version that is asked for, and what uses it runs in it.
//!
//! An older one and a newer one are the same difference: the description is what holds, and taking a new version back by
//! taking the description back must work. What is not installed at all is only said, since there is nothing to go back to.
//! What becomes of a version that does not come up is for `plan::updates` to say, which knows what was tried.

mod steps;

pub use steps::{ModuleChange, Step};

use super::{Check, Drift, DriftKind, Facet, Rung, Subject, services};
use crate::catalogue::{self, Component};
use crate::seen::modules::{self, Found, Installed};
use crate::seen::{Ask, Observation, Reason, Unknown, pm2};
use binder_crds::desired::Module;
use binder_crds::text::{BadText, Checked};
use binder_crds::{Desired, conditions};
use semver::Version;
use std::cmp::Ordering;
use std::time::Duration;

/// The facet.
pub struct Modules;

/// How long npm may take, with a registry that is far away: the script ends it before.
pub const INSTALLED_WITHIN: Duration = Duration::from_secs(300);

/// What holds back whatever npm that is at work would get in the way of.
const NPM: &str = "npm, which is at work on this host";

impl Facet for Modules {
    fn condition(&self) -> &'static str {
        conditions::MODULES_AT_VERSION
    }

    fn in_use(&self, desired: &Desired) -> bool {
        !desired.modules.is_empty()
    }

    fn asks(&self, desired: &Desired) -> Vec<Ask> {
        let place = |module: &Module| {
            // An empty one would mean npm's global modules.
            let folder = module.folder.as_ref().map(|folder| match folder.0.trim_end_matches('/') {
                "" => "/".to_owned(),
                folder => folder.to_owned(),
            });
            (module.name.0.clone(), folder)
        };
        let sound: Vec<_> = desired.modules.iter().filter(|module| sound(module).is_ok()).map(place).collect();
        vec![modules::ask(&sound), pm2::ask()]
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let (installed, machine) = (seen.modules.get()?, seen.machine.get()?);
        let mut check = Check::default();
        let mut fine = Vec::new();
        for module in &desired.modules {
            // An object that is older than the rules: it is not known what its owner means.
            sound(module).map_err(|bad| Unknown {
                reason: Reason::NotSeen,
                message: format!("a module of the description is {bad}"),
            })?;
            let (name, asked) = (&module.name, &module.version);
            match installed.get(&name.0) {
                Some(Found::Installed(found)) if found.version == *asked => {
                    fine.push(format!("{name} {asked}"));
                    check.drifts.extend(not_loaded(desired, seen, module, found)?);
                }
                Some(Found::Linked(found)) if found.version == *asked => fine.push(format!("{name} {asked}")),
                Some(Found::Linked(found)) => {
                    let mut drift = other_version(module, found);
                    drift.evidence.push_str("; it is a link (npm link), so somebody works on it; it is not replaced");
                    check.drifts.push(drift);
                }
                Some(Found::Installed(found)) => check.drifts.push(other_version(module, found)),
                Some(Found::Unknown(why)) => {
                    return Err(Unknown {
                        reason: Reason::NotSeen,
                        message: format!(
                            "it is not known where npm has its global modules ({why}): describe the folder of {name}, or \
                             correct that"
                        ),
                    });
                }
                Some(Found::Missing) => check.drifts.push(missing(module)),
                Some(Found::Unreadable) | None => {
                    return Err(Unknown {
                        reason: Reason::Garbage,
                        message: format!("the package.json of {name} says no version that can be read"),
                    });
                }
            }
        }
        let mut subjects = std::collections::BTreeSet::new();
        // Two modules may have the same user, which is started again once.
        check.drifts.retain(|drift| subjects.insert(drift.subject.clone()));
        if modules::npm_at_work(machine) {
            check.held = check.drifts.iter().map(|drift| (drift.subject.clone(), NPM.to_owned())).collect();
        }
        check.as_described = fine.join(", ");
        Ok(check)
    }

    fn rank(&self, desired: &Desired, drift: &Drift) -> u8 {
        // After what uses it first, so that one module is seen to work before the next one changes.
        let users = module_of(desired, drift).map(|module| catalogue::users(desired, module));
        let first = users.and_then(|users| users.iter().map(|component| component.rank + 1).min());
        first.unwrap_or_else(|| services::rank(desired, drift))
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        match drift.kind {
            DriftKind::ModuleOld | DriftKind::ModuleNewer => {
                let change = module_of(desired, drift).and_then(|module| change(module, seen));
                let rung = |change| Rung::new(Step::InstallModule { change }, INSTALLED_WITHIN);
                change.map(rung).into_iter().collect()
            }
            DriftKind::ModuleNotLoaded => {
                let component = catalogue::described(desired).into_iter().find(|one| drift.subject.is(one));
                component.map(|component| services::clear(&component)).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }
}

/// What a drift of a module's version is about.
pub fn subject(module: &Module) -> Subject {
    Subject::Module { name: module.name.0.clone(), version: module.version.0.clone() }
}

/// The described module that a drift is about.
pub fn module_of<'d>(desired: &'d Desired, drift: &Drift) -> Option<&'d Module> {
    desired.modules.iter().find(|module| subject(module) == drift.subject)
}

fn sound(module: &Module) -> Result<(), BadText> {
    module.name.checked()?;
    module.version.checked()?;
    module.folder.as_ref().map_or(Ok(""), Checked::checked)?;
    Ok(())
}

/// From the version that is there to the one that is asked for.
fn change(module: &Module, seen: &Observation) -> Option<ModuleChange> {
    let Found::Installed(found) = seen.modules.seen()?.get(&module.name.0)? else { return None };
    Some(ModuleChange {
        module: module.name.clone(),
        place: found.place.clone(),
        global: module.folder.is_none(),
        from: found.version.clone(),
        to: module.version.clone(),
        scripts: module.install_scripts,
    })
}

fn other_version(module: &Module, found: &Installed) -> Drift {
    let (name, asked, version) = (&module.name, &module.version, &found.version);
    let (kind, word) = match compare(&version.0, &asked.0) {
        Ordering::Greater => (DriftKind::ModuleNewer, "newer"),
        Ordering::Less | Ordering::Equal => (DriftKind::ModuleOld, "older"),
    };
    Drift {
        kind,
        subject: subject(module),
        short: format!("{name} is {version}, {word} than {asked}"),
        evidence: format!("{name} {version} is installed in {}, and {asked} is asked for", found.place),
    }
}

/// Both have passed their rule, which is semver's; should one not, the description holds.
fn compare(found: &str, asked: &str) -> Ordering {
    match (Version::parse(found), Version::parse(asked)) {
        (Ok(found), Ok(asked)) => found.cmp(&asked),
        _ => Ordering::Less,
    }
}

fn missing(module: &Module) -> Drift {
    let (name, version) = (&module.name, &module.version);
    let advice = match &module.folder {
        Some(folder) => format!("in {folder}: install it there once (npm install {name}@{version} in that folder)"),
        // A second copy among the global ones would be one that nothing runs.
        None => {
            "among npm's global modules; Binder's servers have theirs within binder-control: describe that one, or the \
                 module's folder"
                .to_owned()
        }
    };
    Drift {
        kind: DriftKind::ModuleMissing,
        subject: subject(module),
        short: format!("{name} is not installed"),
        evidence: format!("{name} is not installed {advice}"),
    }
}

/// The components that run since before the module was put there. One that is not as described for another reason is for
/// `services` to start again, and then has the new one.
fn not_loaded(
    desired: &Desired,
    seen: &Observation,
    module: &Module,
    found: &Installed,
) -> Result<Vec<Drift>, Unknown> {
    let users = catalogue::users(desired, module);
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let (machine, table) = (seen.machine.get()?, seen.pm2.get()?);
    let components = services::components(desired, seen)?;
    let uses = |component: &&Component| users.iter().any(|user| user.name == component.name);
    let before = |component: &&Component| {
        services::in_place(component, desired, machine, table, seen)
            && table.named(&component.process).any(|row| row.started_ms / 1000 < found.since)
    };
    let drift = |component: &Component| Drift {
        kind: DriftKind::ModuleNotLoaded,
        subject: Subject::from(component),
        short: format!("{}: not in {} {}", component.name, module.name, found.version),
        evidence: format!("{} runs since before {} {} was installed", component.name, module.name, found.version),
    };
    Ok(components.iter().filter(uses).filter(before).map(drift).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::machine::{Machine, Process};
    use crate::seen::pm2::{Row, State, Table};
    use binder_crds::desired::Server;

    fn desired(version: &str) -> Desired {
        let module = Module { name: "binder-web".into(), version: version.into(), ..Module::default() };
        Desired { servers: vec![Server::Web], modules: vec![module], ..Desired::default() }
    }

    /// A web server that runs since 1000, in a module that is there since then.
    fn seen(version: &str, since: i64) -> Observation {
        let installed = Installed { version: version.into(), place: "/opt/binder".into(), since };
        let process = Process {
            parent: 1,
            uid: 1000,
            started_ticks: 900,
            command: "node /opt/binder/node_modules/binder-web/server/cli.js start".to_owned(),
        };
        let row = Row {
            name: "binder-web-start".to_owned(),
            id: 0,
            pid: Some(70),
            state: State::Online,
            restarts: 0,
            started_ms: 1_000_000,
            ..Row::default()
        };
        let machine = Machine {
            uid: 1000,
            ticks: 100,
            clock: 9000,
            processes: std::collections::BTreeMap::from([(70, process)]),
            listeners: std::collections::BTreeMap::from([(3000, vec![70])]),
            ..Machine::default()
        };
        Observation {
            machine: Fact::Seen(machine),
            pm2: Fact::Seen(Table { daemon: true, rows: vec![row], ..Table::default() }),
            modules: Fact::Seen(modules::Modules::from([("binder-web".to_owned(), Found::Installed(installed))])),
            ..Observation::nothing(jiff::Timestamp::UNIX_EPOCH)
        }
    }

    fn kinds(desired: &Desired, seen: &Observation) -> Vec<DriftKind> {
        Modules.check(desired, seen).unwrap().drifts.iter().map(|drift| drift.kind).collect()
    }

    #[test]
    fn versions_are_compared_as_versions() {
        for (found, asked, kind) in [
            ("1.1.9", "1.1.17", DriftKind::ModuleOld),
            ("1.2.0", "1.1.17", DriftKind::ModuleNewer),
            ("2.0.0-rc.1", "2.0.0", DriftKind::ModuleOld),
            ("10.0.0", "9.0.0", DriftKind::ModuleNewer),
        ] {
            assert_eq!(kinds(&desired(asked), &seen(found, 500)), [kind], "{found} {asked}");
        }
        assert_eq!(kinds(&desired("1.1.17"), &seen("1.1.17", 500)), []);
    }

    #[test]
    fn what_ran_before_its_module_changed_is_started_again_and_what_came_after_is_not() {
        let asked = desired("1.1.17");
        let old = seen("1.1.17", 1001);
        let check = Modules.check(&asked, &old).unwrap();
        assert_eq!(check.drifts[0].kind, DriftKind::ModuleNotLoaded);
        let ladder = Modules.ladder(&asked, &old, &check.drifts[0]);
        assert_eq!(ladder[0].step.words(), "delete web from pm2");
        assert_eq!(kinds(&asked, &seen("1.1.17", 1000)), []);
    }

    #[test]
    fn only_what_uses_a_module_is_started_again() {
        let mut asked = desired("1.1.17");
        asked.modules[0].used_by = vec!["health".into()];
        assert_eq!(kinds(&asked, &seen("1.1.17", 1001)), []);
        asked.modules[0].used_by = vec!["binder-web-start".into()];
        assert_eq!(kinds(&asked, &seen("1.1.17", 1001)), [DriftKind::ModuleNotLoaded]);
    }

    #[test]
    fn the_step_knows_the_way_back() {
        let (asked, seen) = (desired("1.1.17"), seen("1.1.16", 500));
        let check = Modules.check(&asked, &seen).unwrap();
        let step = Modules.ladder(&asked, &seen, &check.drifts[0]).remove(0).step;
        let change = step.changes_module().unwrap();
        assert_eq!((change.asked().as_str(), change.global), ("binder-web@1.1.17", true));
        assert_eq!(change.back().asked(), "binder-web@1.1.16");
    }

    #[test]
    fn nothing_is_done_about_what_is_missing_unreadable_or_in_the_hands_of_npm() {
        let asked = desired("1.1.17");
        let mut odd = seen("1.1.16", 500);
        odd.modules = Fact::Seen(modules::Modules::from([("binder-web".to_owned(), Found::Missing)]));
        let check = Modules.check(&asked, &odd).unwrap();
        assert_eq!(check.drifts[0].kind, DriftKind::ModuleMissing);
        assert!(Modules.ladder(&asked, &odd, &check.drifts[0]).is_empty());
        odd.modules = Fact::Seen(modules::Modules::from([("binder-web".to_owned(), Found::Unreadable)]));
        assert_eq!(Modules.check(&asked, &odd).unwrap_err().reason, Reason::Garbage);
        let mut busy = seen("1.1.16", 500);
        if let Fact::Seen(machine) = &mut busy.machine {
            let command = "npm install".to_owned();
            machine.processes.insert(9, Process { parent: 1, uid: 0, started_ticks: 1, command });
        }
        let check = Modules.check(&asked, &busy).unwrap();
        let held: Vec<(String, String)> = check.held.iter().map(|(of, what)| (of.to_string(), what.clone())).collect();
        assert_eq!(held, [("module binder-web@1.1.17".to_owned(), NPM.to_owned())]);
    }

    #[test]
    fn a_link_is_said_and_never_replaced_and_a_prefix_that_is_not_known_makes_nothing_missing() {
        let asked = desired("1.1.17");
        let found = |found: Found| Observation {
            modules: Fact::Seen(modules::Modules::from([("binder-web".to_owned(), found)])),
            ..seen("1.1.16", 500)
        };
        let linked = |version: &str| {
            let there = Installed { version: version.into(), place: "/usr/local".into(), since: 9999 };
            found(Found::Linked(there))
        };
        let seen = linked("1.2.0-dev");
        let check = Modules.check(&asked, &seen).unwrap();
        assert_eq!(check.drifts[0].kind, DriftKind::ModuleNewer);
        assert!(check.drifts[0].evidence.contains("it is a link (npm link)"), "{}", check.drifts[0].evidence);
        assert!(Modules.ladder(&asked, &seen, &check.drifts[0]).is_empty());
        // Nor is what uses it started again: a checkout has no moment at which it was installed.
        assert_eq!(kinds(&asked, &linked("1.1.17")), []);
        let blind = Modules.check(&asked, &found(Found::Unknown("node is not on the PATH".to_owned()))).unwrap_err();
        assert!(blind.message.contains("node is not on the PATH"), "{}", blind.message);
    }

    #[test]
    fn a_hostile_description_is_not_acted_on() {
        for (name, version) in [("-g", "1.0.0"), ("binder-web", "latest"), ("../../etc", "1.0.0")] {
            let mut asked = desired(version);
            asked.modules[0].name = name.into();
            assert!(Modules.check(&asked, &seen("1.1.16", 500)).is_err(), "{name} {version}");
            assert!(Modules.asks(&asked)[0].args.is_empty());
        }
    }
}
