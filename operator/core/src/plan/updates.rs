//! What became of new versions of modules: one with which a server does not come up is taken back, and is not tried again.
//!
//! The facet `modules` knows what is installed and what is asked for; here is what was tried, from the BinderActions of the
//! present incident. Pure, like all of `plan`.

use super::Checked;
use super::memory::{Attempt, History};
use crate::catalogue;
use crate::facets::modules::{INSTALLED_WITHIN, ModuleChange, module_of, subject as module_subject};
use crate::facets::services::{clear, crash_is_explained};
use crate::facets::{Drift, DriftKind, Rung, Step, modules};
use crate::seen::Observation;
use crate::seen::modules::Found;
use binder_crds::desired::Module;
use binder_crds::{ActionOutcome, Desired, conditions};
use jiff::Timestamp;

/// What is remembered of the present incident.
#[derive(Clone, Copy)]
pub(super) struct Tried<'a> {
    /// What was tried.
    pub memory: &'a History,
    /// Since when it counts.
    pub incident: Option<Timestamp>,
}

impl<'a> Tried<'a> {
    /// What may have been done in this incident, the latest first.
    fn done(self) -> impl Iterator<Item = &'a Attempt> {
        let since = self.incident;
        self.memory.actions.iter().rev().filter(move |past| {
            past.outcome != Some(ActionOutcome::Abandoned) && since.is_none_or(|since| past.created >= since)
        })
    }

    /// What we did to a module last.
    fn last_change(self, module: &Module) -> Option<(&'a Attempt, &'a Step)> {
        self.done().find_map(|past| {
            let step = past.step.as_ref()?;
            step.changes_module().filter(|change| change.module == module.name).map(|_| (past, step))
        })
    }

    /// The last new version of a module that we put there, unless it was taken back since.
    fn update(self, module: &Module) -> Option<(&'a Attempt, &'a ModuleChange)> {
        match self.last_change(module)? {
            (past, Step::Modules(modules::Step::InstallModule { change })) => Some((past, change)),
            _ => None,
        }
    }

    /// The attempts to start a component since a time.
    fn starts(self, component: &str, since: Timestamp) -> impl Iterator<Item = &'a Attempt> {
        self.done()
            .filter(move |past| past.created >= since && past.step.as_ref().is_some_and(|step| step.nature().starts))
            .filter(move |past| past.subject == component)
    }

    /// Whether a module was taken back, and a component that may be crashing in the other version was not started since.
    fn awaits_start(self, module: &Module, component: &str) -> bool {
        match self.last_change(module) {
            Some((past, Step::Modules(modules::Step::RevertModule { .. }))) => {
                past.outcome.is_some() && self.starts(component, past.created).next().is_none()
            }
            _ => false,
        }
    }

    /// What a component said when it did not come up after a time: every start of it since then failed.
    fn did_not_come_up(self, component: &str, since: Timestamp) -> Option<&'a Attempt> {
        if self.starts(component, since).any(|past| past.outcome == Some(ActionOutcome::Succeeded)) {
            return None;
        }
        self.starts(component, since).find(|past| past.outcome == Some(ActionOutcome::Failed))
    }

    /// Why the version that is asked for is not tried again.
    fn taken_back(self, module: &Module) -> Option<String> {
        let (back, change) = self.done().find_map(|past| match &past.step {
            Some(Step::Modules(modules::Step::RevertModule { change }))
                if change.module == module.name && change.from == module.version =>
            {
                Some((past, change))
            }
            _ => None,
        })?;
        let component = &back.subject;
        let failed = self
            .done()
            .filter(|past| past.created <= back.created)
            .find(|past| past.subject == *component && past.outcome == Some(ActionOutcome::Failed));
        let how = failed.filter(|past| !past.message.is_empty());
        let how = how.map(|past| format!(" ({})", past.message)).unwrap_or_default();
        let what = if module_subject(module).to_string() == *component {
            "npm left it half there".to_owned()
        } else {
            format!("{component} did not come up with it{how}")
        };
        Some(format!("{} was installed, and {what}, so {} was installed again", change.from, change.to))
    }
}

/// Says of each module whose new version was taken back what became of it: its condition is where an owner looks.
pub(super) fn tell(checks: &mut [Checked], desired: &Desired, tried: Tried<'_>) {
    let modules = checks.iter_mut().filter(|checked| checked.condition == conditions::MODULES_AT_VERSION);
    for drift in modules.filter_map(|checked| checked.result.as_mut().ok()).flat_map(|check| &mut check.drifts) {
        if let Some(why) = module_of(desired, drift).and_then(|module| tried.taken_back(module)) {
            drift.evidence.push_str("; ");
            drift.evidence.push_str(&why);
        }
    }
}

/// The remedies against a drift, where it has to do with a module that we have changed; `None` where it has not.
pub(super) fn ladder(drift: &Drift, desired: &Desired, seen: &Observation, tried: Tried<'_>) -> Option<Vec<Rung>> {
    // What is done again comes from the description and the look; of what is remembered only the version that was there.
    let back = |module: &Module, change: &ModuleChange| {
        let remembered = change.back();
        let change = ModuleChange {
            module: module.name.clone(),
            global: module.folder.is_none(),
            scripts: module.install_scripts,
            place: match seen.modules.seen().and_then(|modules| modules.get(&module.name.0)) {
                Some(Found::Installed(found)) => found.place.clone(),
                Some(Found::Missing | Found::Unreadable | Found::Linked(_) | Found::Unknown(_)) | None => {
                    module.folder.clone().unwrap_or(remembered.place)
                }
            },
            from: remembered.from,
            to: remembered.to,
        };
        vec![Rung::new(modules::Step::RevertModule { change }, INSTALLED_WITHIN)]
    };
    match drift.kind {
        // Tried once, and taken back: a person must look.
        DriftKind::ModuleOld | DriftKind::ModuleNewer => {
            tried.taken_back(module_of(desired, drift)?).map(|_| Vec::new())
        }
        // npm has left neither the old one nor the new one.
        DriftKind::ModuleMissing => {
            let module = module_of(desired, drift)?;
            let (past, change) = tried.update(module)?;
            past.outcome.is_some().then(|| back(module, change))
        }
        kind if kind.may_come_of_version() => desired.modules.iter().find_map(|module| {
            let component = catalogue::users(desired, module).into_iter().find(|one| drift.subject.is(one))?;
            let crashes = drift.kind == DriftKind::RestartsClimbing;
            if crashes && crash_is_explained(&component, seen) {
                return None;
            }
            // pm2 waits ever longer before it starts again what crashes.
            if crashes && tried.awaits_start(module, &component.name) {
                return Some(clear(&component));
            }
            let (past, change) = tried.update(module)?;
            let found = seen.modules.seen()?.get(&module.name.0)?;
            let there = matches!(found, Found::Installed(found) if found.version == change.to);
            // What crashes again and again has told enough; anything else may be no more than not running.
            let failed = crashes || tried.did_not_come_up(&component.name, past.created).is_some();
            (there && failed).then(|| back(module, change))
        }),
        _ => None,
    }
}
