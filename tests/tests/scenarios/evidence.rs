//! `kubectl describe bh` of each fault, kept as files under `docs/examples` and compared with what the operator really
//! says. What differs from run to run (times, ids, addresses of processes) is replaced by a word.
//!
//! `BINDER_EXAMPLES=write cargo test --workspace --test scenarios -- heals::` writes the files anew.

use std::path::PathBuf;

use binder_crds::conditions;
use binder_lab::stage::workspace;

use crate::{Outcome, ensure, failed};

/// The variable that asks for the files to be written.
const WRITE: &str = "BINDER_EXAMPLES";

/// Compares, or writes when asked to. `condition` is the one that the fault turns.
pub(crate) fn compare(fault: &str, condition: &str, described: &str) -> Outcome {
    let file: PathBuf = workspace().join("docs/examples").join(format!("{fault}.txt"));
    let told = told(condition, described);
    if std::env::var_os(WRITE).is_some_and(|value| value == "write") {
        let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        return folder.and_then(|()| std::fs::write(&file, &told)).map_err(failed);
    }
    let kept = std::fs::read_to_string(&file)
        .map_err(|error| libtest_mimic::Failed::from(format!("cannot read `{}`: {error}", file.display())))?;
    ensure(comparable(fault, &kept) == comparable(fault, &told), || {
        format!(
            "`{}` is not what the operator says any more; {WRITE}=write writes it anew\n--- kept\n{kept}\n--- said\n{told}",
            file.display()
        )
    })
}

/// What a person is told of the fault: its condition and those of the whole, the summary, the next step and the plan,
/// without what differs from run to run. Of what was tried before, of other faults' events, and of what else was seen or not
/// seen in the same moment, nothing.
fn told(kind: &str, described: &str) -> String {
    let mut text = String::new();
    let mut section = "";
    let mut condition: Vec<String> = Vec::new();
    for line in described.lines().skip_while(|line| !line.starts_with("Status:")) {
        let indent = line.len() - line.trim_start().len();
        if indent == 2 {
            section = line.trim().split(':').next().unwrap_or_default();
        }
        match section {
            "Conditions" if line.trim_start().starts_with("Last Transition Time:") => condition.clear(),
            "Conditions" if line.trim_start().starts_with("Observed Generation:") => {}
            "Conditions" if indent > 2 => {
                condition.push(line.to_owned());
                if line.trim_start().starts_with("Type:") && tells(kind, &condition) {
                    text.push_str(&condition.join("\n"));
                    text.push('\n');
                }
            }
            "Conditions" | "Drift" | "Next" | "Plan" | "Summary" | "Waits For" => {
                text.push_str(line);
                text.push('\n');
            }
            _ => {}
        }
        if line.starts_with("Events:") {
            break;
        }
    }
    neutral(&text)
}

/// What comes first of all where no proxy or a wrong one serves, by fault, unless `deploy-kubernetes` was asking the cluster
/// something when the right one ended: then it crashed, was started again by pm2, and goes first.
const FIRST: [(&str, &str); 3] = [
    ("proxy-dead", "start the kubectl proxy on 8085"),
    ("proxy-wrong-cluster", "end the wrong kubectl proxy on 8085 (pid PID)"),
    ("proxy-wrong-kubectl", "delete kubectl-proxy from pm2"),
];

/// Without what a crash at that moment decides: see [`FIRST`]; how many of its proxies pm2 still holds for a server that it lost,
/// and whether the newest of its logs still tells the crash.
fn comparable(fault: &str, text: &str) -> String {
    let mut text = text.replace("; it crashed in kube-stream", "");
    if let Some((_, first)) = FIRST.iter().find(|(of, _)| *of == fault) {
        text = text.replace("delete deploy-kubernetes and its children from pm2", first);
    }
    for count in 1..=4 {
        text = text.replace(&format!(", {count} of binder-kubernetes-proxy"), "");
    }
    text
}

/// Whether a condition is told: it is the fault's, or one of the whole.
fn tells(kind: &str, condition: &[String]) -> bool {
    let found = condition.iter().find_map(|line| line.trim().strip_prefix("Type:")).unwrap_or_default().trim();
    [kind, conditions::READY, conditions::HEALTHY, conditions::STALLED].contains(&found)
}

fn bare_address(word: &str) -> bool {
    let inside = word.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    inside.is_some_and(|inside| inside.parse::<std::net::SocketAddr>().is_ok())
}

/// Who of the neighbours was asked is up to who was connected at that moment; what they saw is not.
fn witnesses(line: &str) -> String {
    let mut seen: Vec<String> = Vec::new();
    for part in line.split("; ") {
        let part = match part.strip_prefix("seen from ").and_then(|rest| rest.split_once(": ")) {
            Some((_, saw)) => format!("seen from NEIGHBOUR: {saw}"),
            None => part.to_owned(),
        };
        if !seen.contains(&part) {
            seen.push(part);
        }
    }
    seen.join("; ")
}

fn neutral(text: &str) -> String {
    let mut out = String::new();
    // A look may fall before or after the end of those waits.
    let passing = ["recovery without a step", "a second look that shows the same"];
    for line in text.lines().filter(|line| !passing.iter().any(|wait| line.contains(wait))) {
        // How far values are indented depends on the longest key around, which may be another fault's.
        let line = match line.split_once(": ") {
            Some((key, value)) => format!("{key}:  {}", value.trim_start()),
            None => line.to_owned(),
        };
        let mut words: Vec<String> = Vec::new();
        let (mut after_pid, mut after_at, mut after_generation) = (false, false, false);
        for word in line.split(' ') {
            let bare: String = word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            let uid = bare.len() == 36 && bare.matches('-').count() == 4;
            let digits = word.trim_end_matches([')', ',', ';', '.']);
            let attempt = word.strip_prefix('(').and_then(|rest| rest.strip_suffix("/3)")).is_some();
            words.push(match word {
                _ if uid => "UID".to_owned(),
                _ if after_pid => word.replace(digits, "PID"),
                // A spec's number differs with what earlier scenarios described.
                _ if after_generation && word.parse::<u64>().is_ok() => "N".to_owned(),
                // Each lab has a login key of its own.
                _ if word.starts_with("SHA256:") => word.replace(digits, "SHA256:FINGERPRINT"),
                _ if word.starts_with("AAAA") => "AAAA...".to_owned(),
                _ if attempt => "(N/3)".to_owned(),
                // How full a disk gets is the fault's business; that it is said is ours.
                _ if after_at && word.parse::<u8>().is_ok() => "NN".to_owned(),
                // Each lab has a network of its own.
                _ if bare_address(word) => "(ADDRESS)".to_owned(),
                _ if digits.ends_with('Z') && digits.matches(':').count() == 2 => word.replace(digits, "HH:MM:SSZ"),
                _ => word.to_owned(),
            });
            after_pid = word.ends_with("(pid");
            after_at = word == "at";
            after_generation = word == "generation";
        }
        let line = witnesses(&words.join(" "));
        // Attempts of earlier scenarios in the same incident differ with the order of a run.
        let line = match line.split_once("Attempt:") {
            Some((before, _)) => format!("{before}Attempt:  N of 3"),
            None => line,
        };
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
