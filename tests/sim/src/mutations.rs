//! Guards of gate, planner and controllers, each with how it is broken: a simulation that does not notice proves nothing.
//!
//! `cargo sim --mutations` builds the operator with one guard broken after the other, in a copy, and says which invariant
//! found it. That each can still be broken (its text is there, once) is a test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One guard, broken.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    /// Its name.
    pub name: &'static str,
    /// The file, from the root of the repository.
    pub file: &'static str,
    /// What is there, once.
    pub there: &'static str,
    /// What takes its place.
    pub instead: &'static str,
}

const GATE: &str = "operator/core/src/gate.rs";
const ACT: &str = "operator/src/controllers/host/act.rs";
const HOST: &str = "operator/src/controllers/host.rs";
const RECORD: &str = "operator/src/controllers/record.rs";

/// The guards.
pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "observe",
        file: GATE,
        there: "        Mode::Observe => return Err(BlockedBy::Observe),",
        instead: "        Mode::Observe => {}",
    },
    Mutation {
        name: "approve",
        file: GATE,
        there: "        Mode::Approve => return Err(BlockedBy::Approval),",
        instead: "        Mode::Approve => {}",
    },
    Mutation {
        name: "attempts",
        file: GATE,
        there: "    if request.attempts >= request.max_attempts {",
        instead: "    if request.attempts >= 1000 {",
    },
    Mutation {
        name: "taking-effect",
        file: GATE,
        there: "    if let Some((step, until)) = request.taking_effect {",
        instead: "    if let Some((step, until)) = request.taking_effect.filter(|_| false) {",
    },
    Mutation {
        name: "retryPeriod",
        file: GATE,
        there: "request.retry_at.filter(|until| *until > request.now)",
        instead: "request.retry_at.filter(|_| false)",
    },
    Mutation {
        name: "per-day",
        file: GATE,
        there: "        Some(Missing::PerDay { done, until }) => return Err(BlockedBy::PerDay { done: *done, until: *until }),",
        instead: "        Some(Missing::PerDay { .. }) => {}",
    },
    Mutation {
        name: "lasting",
        file: GATE,
        there: "        Some(Missing::Lasting { until }) => return Err(BlockedBy::MayPass { until: *until }),",
        instead: "        Some(Missing::Lasting { .. }) => {}",
    },
    Mutation {
        name: "booting",
        file: GATE,
        there: "        Some(Missing::Booting { until }) => return Err(BlockedBy::Booting { until: *until }),",
        instead: "        Some(Missing::Booting { .. }) => {}",
    },
    Mutation {
        name: "witness",
        file: GATE,
        there: "    if let Some(what) = request.witness {",
        instead: "    if let Some(what) = request.witness.filter(|_| false) {",
    },
    Mutation {
        name: "second-look",
        file: GATE,
        there: "    if missing == Some(Missing::SecondLook) {",
        instead: "    if false {",
    },
    Mutation {
        name: "budget",
        file: "operator/core/src/plan/memory.rs",
        there: "        let counts = |other: &&Disrupted| purpose == Purpose::Planned || other.under_way;",
        instead: "        let counts = |_: &&Disrupted| false && purpose == Purpose::Planned;",
    },
    Mutation {
        name: "still-described",
        file: ACT,
        there: "    if !still_described(described, context).await? {",
        instead: "    if false && !still_described(described, context).await? {",
    },
    Mutation {
        name: "too-old",
        file: ACT,
        there: "        Some(self.evidence_at.elapsed()).filter(|age| *age > GOOD_FOR)",
        instead: "        Some(self.evidence_at.elapsed()).filter(|age| *age > GOOD_FOR * 1000)",
    },
    Mutation {
        name: "last-look",
        file: ACT,
        there: "    let last = outage::objection(outside, &described.spec, step, power.as_ref(), fleet.patience.unreachable_timeout);",
        instead: "    let last = async { let _ = (outside, step, power, fleet.patience.unreachable_timeout); None };",
    },
    Mutation {
        name: "first-login",
        file: "operator/core/src/plan/outage.rs",
        there: "    if proven(host.previous.proven_at.as_ref(), spec).is_none() {",
        instead: "    if false && proven(host.previous.proven_at.as_ref(), spec).is_none() {",
    },
    Mutation {
        name: "life",
        file: "operator/core/src/plan/witness.rs",
        there: "    if witness.heard.iter().any(Testimony::is_life) {",
        instead: "    if false && witness.heard.iter().any(Testimony::is_life) {",
    },
    Mutation {
        name: "one-name",
        file: "operator/core/src/plan/candidates.rs",
        there: "        let name = action_name(host, memory);",
        instead: "        let name = format!(\"{}-{}\", action_name(host, memory), now.as_nanosecond());",
    },
    Mutation {
        name: "nonce",
        file: RECORD,
        there: "        Some(found) if found.spec.nonce == action.spec.nonce => {",
        instead: "        Some(found) if true || found.spec.nonce == action.spec.nonce => {",
    },
    Mutation {
        name: "conflict",
        file: RECORD,
        there: "        Err(kube::Error::Api(status)) if status.is_conflict() => Err(Error::Conflict(format!(\"BinderHost {name}\"))),",
        instead: "        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),",
    },
    Mutation {
        name: "deadline",
        file: "operator/core/src/plan/mod.rs",
        there: "    let late = now >= past.deadline;",
        instead: "    let late = false && now >= past.deadline;",
    },
    Mutation {
        name: "refused-login",
        file: "operator/src/hosts/pool.rs",
        there: "        ConnectError::LoginRefused { .. } | ConnectError::RsaNotTaken { .. } | ConnectError::MoreProofWanted { .. } => {\n            return (NotConnected { why, retry: Retry::WhenLoginChanges }, None);\n        }",
        instead: "        ConnectError::LoginRefused { .. } | ConnectError::RsaNotTaken { .. } | ConnectError::MoreProofWanted { .. } => delay(failures, &chance.jitter),",
    },
    Mutation {
        name: "suspended",
        file: HOST,
        there: "        suspended: object.spec.suspend.then(|| \"spec.suspend is true\".to_owned()),",
        instead: "        suspended: None,",
    },
    Mutation {
        name: "host-mode",
        file: "operator/src/controllers/fleet.rs",
        there: "    fleet.spec.mode.min(host.spec.mode.unwrap_or(Mode::Enforce))",
        instead: "    { let _ = host; fleet.spec.mode }",
    },
    Mutation {
        name: "memory",
        file: HOST,
        there: "    let mut memory = record::memory(context, &described.object, &described.uid, keep).await?;",
        instead: "    record::memory(context, &described.object, &described.uid, keep).await?;\n    let mut memory = History::default();",
    },
];

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Mutation {
    /// The file with the guard broken.
    ///
    /// # Errors
    /// The file cannot be read, or does not have the guard's text once.
    pub fn broken(&self, root: &Path) -> Result<String, String> {
        let text = std::fs::read_to_string(root.join(self.file)).map_err(|error| format!("{}: {error}", self.file))?;
        match text.matches(self.there).count() {
            1 => Ok(text.replace(self.there, self.instead)),
            count => Err(format!("{}: the text of the guard {} is there {count} times", self.file, self.name)),
        }
    }
}

/// Breaks one guard after the other in a copy of the sources, builds that and runs it. Gives the guards that nothing noticed.
///
/// # Errors
/// The copy cannot be made, or a broken operator cannot be built: in words.
pub fn all(
    only: &[String],
    seeds: u64,
    profile: &str,
    mut tell: impl FnMut(&str),
) -> Result<Vec<&'static str>, String> {
    let root = root();
    let copy = root.join("target/mutations");
    let words = |error: std::io::Error| error.to_string();
    let mut missed = Vec::new();
    copied(&root, &copy)?;
    let folder = if profile == "dev" { "debug" } else { profile };
    linked(&root.join("target").join(folder), &copy.join("target").join(folder))?;
    for mutation in MUTATIONS.iter().filter(|mutation| only.is_empty() || only.iter().any(|name| name == mutation.name))
    {
        let (file, whole) = (copy.join(mutation.file), root.join(mutation.file));
        std::fs::write(&file, mutation.broken(&root)?).map_err(words)?;
        let run = |arguments: &[&str]| Command::new("cargo").args(arguments).current_dir(&copy).output().map_err(words);
        let built = run(&["build", "--offline", "--profile", profile, "--package", "binder-sim", "--bin", "sim"])?;
        std::fs::copy(&whole, &file).map_err(words)?;
        if !built.status.success() {
            return Err(format!("{}: {}", mutation.name, String::from_utf8_lossy(&built.stderr)));
        }
        let ran = Command::new(copy.join("target").join(folder).join("sim"))
            .args(["--seeds", &seeds.to_string(), "--as-it-is"])
            .output()
            .map_err(words)?;
        let said = String::from_utf8_lossy(&ran.stdout);
        let found = said.lines().find(|line| line.starts_with("BROKEN"));
        let seed = said.lines().find(|line| line.starts_with("seed ")).unwrap_or_default();
        match found {
            Some(found) => tell(&format!("{}: {seed} {}", mutation.name, found.chars().take(160).collect::<String>())),
            None => {
                tell(&format!("{}: NOT FOUND in {seeds} seeds", mutation.name));
                missed.push(mutation.name);
            }
        }
    }
    Ok(missed)
}

/// The sources that cargo needs, and nothing that was built. Times are those of the copying: cargo goes by them.
fn copied(root: &Path, copy: &Path) -> Result<(), String> {
    std::fs::create_dir_all(copy).map_err(|error| error.to_string())?;
    let script = "git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t \"$1\"";
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(copy).current_dir(root).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the sources cannot be copied: {status}")),
        Err(error) => Err(error.to_string()),
    }
}

/// What was built of other people's crates need not be built again: cargo takes it from hard links as well.
fn linked(built: &Path, copy: &Path) -> Result<(), String> {
    let Some(parent) = copy.parent().filter(|_| built.exists() && !copy.exists()) else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    let status = Command::new("cp").args(["--archive", "--link"]).arg(built).arg(copy).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} cannot be linked: {status}", built.display())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_guard_is_still_there_to_be_broken() {
        let wrong: Vec<String> = MUTATIONS.iter().filter_map(|mutation| mutation.broken(&root()).err()).collect();
        assert_eq!(wrong, Vec::<String>::new());
        let names: BTreeSet<&str> = MUTATIONS.iter().map(|mutation| mutation.name).collect();
        assert!(names.len() == MUTATIONS.len() && names.len() >= 20);
    }
}
