//! On a healthy fleet no failure of any tool, witness, credential or part of the API leads to a step.
//!
//! Every section of the probe and every question fails in each way that is known, one at a time, while all else is well: the
//! sections are run by a real `sh` with stand-ins for the host's tools, and what comes of ten looks is decided as the
//! controller does. A table tells what would be said; the last line counts. Knows no lab.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
#![allow(clippy::print_stdout, reason = "the table is what the test is for")]

mod operator;
mod questions;
mod stage;
mod ways;

use binder_core::facets;
use binder_core::plan::Looked;
use binder_core::seen::{Answer, Ask, Observation, Reason, Unknown};
use binder_crds::BinderHostSpec;
use jiff::{SignedDuration, Timestamp};
use operator::{Outcome, desired, fleet, spec, ten_looks};
use questions::Questions;
use stage::{Fault, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Cells that are run at once: most of their time goes by in waiting.
const AT_ONCE: usize = 4;

/// The limit of a section whose tool hangs.
const SHORT: Duration = Duration::from_millis(700);

/// Shells that a login can have.
const SHELLS: &[(&str, &[&str])] =
    &[("sh", &["/bin/sh"]), ("bash", &["/bin/bash"]), ("busybox", &["/bin/busybox", "sh"])];

type Answers = BTreeMap<String, Answer>;

/// What all cells share.
struct Fixture {
    stage: Stage,
    spec: BinderHostSpec,
    asks: Vec<Ask>,
    now: Timestamp,
    baseline: Answers,
    /// What they say.
    well: Observation,
}

/// One failure.
struct Cell {
    name: String,
    what: What,
}

enum What {
    /// These sections answered so.
    Sections(Answers),
    /// A tool is broken for these sections.
    Tool {
        tool: &'static str,
        script: Option<String>,
        hangs: bool,
        sections: Vec<&'static str>,
        shell: &'static [&'static str],
    },
    /// Questions are answered so.
    Questions(Box<Questions>),
    /// Nobody could look.
    Outage(binder_core::plan::LookFailure, Box<binder_core::plan::memory::FleetView>),
}

impl Fixture {
    /// What the answers of a look say.
    fn read(&self, answers: &Answers, questions: &Questions) -> Observation {
        Observation::read(self.now, &self.asks, answers, questions.cluster.clone())
    }

    /// The same a while later.
    fn later(&self, seen: &Observation, questions: &Questions, after: SignedDuration) -> Looked {
        let seen = Observation { at: self.now + after, ..seen.clone() };
        Looked::Seen(Box::new(questions.clone().into(seen, after)))
    }

    fn judged(&self, answers: &Answers, questions: &Questions) -> Outcome {
        let (all_well, ill) = (Questions::well(self.now), self.read(answers, questions));
        let well = |after| (self.later(&self.well, &all_well, after), fleet());
        let broken = |after| (self.later(&ill, questions, after), fleet());
        ten_looks(&self.spec, self.now, &well, &broken)
    }

    fn run(&self, cell: &Cell) -> Outcome {
        match &cell.what {
            What::Sections(changed) => {
                let mut answers = self.baseline.clone();
                answers.extend(changed.clone());
                self.judged(&answers, &Questions::well(self.now))
            }
            What::Tool { tool, script, hangs, sections, shell } => {
                let tools = self.stage.cell(&cell.name, tool, script.as_deref());
                let asks: Vec<Ask> = self.asks.iter().filter(|ask| sections.contains(&ask.name)).cloned().collect();
                let changed = self.stage.run(&asks, &tools, "world", shell, hangs.then_some(SHORT));
                let same = changed.iter().all(|(name, answer)| self.baseline.get(name) == Some(answer));
                if same {
                    return Outcome { healthy: true, ..Outcome::default() };
                }
                let mut answers = self.baseline.clone();
                answers.extend(changed);
                self.judged(&answers, &Questions::well(self.now))
            }
            What::Questions(questions) => self.judged(&self.baseline, questions),
            What::Outage(failure, view) => {
                let all_well = Questions::well(self.now);
                let well = |after| (self.later(&self.well, &all_well, after), fleet());
                let broken = |_| (questions::failed(failure), (**view).clone());
                ten_looks(&self.spec, self.now, &well, &broken)
            }
        }
    }
}

/// Whether a script names a tool.
fn mentions(script: &str, tool: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    script.match_indices(tool).any(|(at, _)| {
        let before = script[..at].chars().next_back();
        let after = script[at + tool.len()..].chars().next();
        !before.is_some_and(|c| part(c) || c == '-' || c == '.' || c == '$')
            && !after.is_some_and(|c| part(c) || c == '-')
    })
}

/// The tools that run every section.
const RUNNERS: &[&str] = &["sh", "timeout", "head", "base64"];

fn tool_cells(asks: &[Ask]) -> Vec<Cell> {
    let mut cells = Vec::new();
    let sections = |tool: &str| -> Vec<&'static str> {
        let uses = |ask: &&Ask| RUNNERS.contains(&tool) || mentions(ask.script, tool);
        asks.iter().filter(uses).map(|ask| ask.name).collect()
    };
    let mut add = |tool: &'static str, way: ways::Way, sections: Vec<&'static str>, shell: usize| {
        let (shell_name, shell) = SHELLS[shell];
        let of = if shell_name == "sh" { String::new() } else { format!(", in {shell_name}") };
        let name = format!("{tool} {}{of}", way.name);
        cells.push(Cell { name, what: What::Tool { tool, script: way.script, hangs: way.hangs, sections, shell } });
    };
    let tools: BTreeSet<&'static str> = stage::tools().collect();
    for tool in tools {
        let sections = sections(tool);
        if sections.is_empty() || ["[", "test", "true", "echo", "printf"].contains(&tool) {
            continue;
        }
        for way in ways::common() {
            add(tool, way, sections.clone(), 0);
        }
    }
    for (tool, way) in ways::special() {
        add(tool, way, sections(tool), 0);
    }
    // busybox runs tools of its own, so that only those that it lacks can be replaced.
    for (shell, of) in [(1, &["ss", "ps", "iptables"][..]), (2, &["ss", "iptables", "pm2", "docker"])] {
        if !std::path::Path::new(SHELLS[shell].1[0]).exists() {
            continue;
        }
        for tool in of {
            for way in ways::common().into_iter().filter(|way| !way.hangs) {
                add(tool, way, sections(tool), shell);
            }
        }
    }
    cells
}

fn section_cells(fixture: &Fixture) -> Vec<Cell> {
    let mut cells = Vec::new();
    for ask in &fixture.asks {
        let mut add = |name: &str, answer: Answer| {
            let changed = Answers::from([(ask.name.to_owned(), answer)]);
            cells.push(Cell { name: format!("section {}: {name}", ask.name), what: What::Sections(changed) });
        };
        let not = |reason| Unknown { reason, message: "the look ended before it".to_owned() };
        for reason in [Reason::NotSeen, Reason::ProbeTimedOut, Reason::TooMuchOutput, Reason::Garbage] {
            add(reason.as_str(), Answer::Not(not(reason)));
        }
        let said = |bytes: &[u8], exit| Answer::Said { bytes: bytes.to_vec(), exit };
        for exit in [1, 2, 77, 124, 126, 127, 137, 255] {
            add(&format!("nothing, exit code {exit}"), said(b"", exit));
        }
        add("nothing", said(b"", 0));
        add("bytes", said(b"\x00\x01\xff\xfe\xc3\x28\n", 0));
        add("a page", said(b"<html><body>hello</body></html>\n", 0));
        add("a banner", said(b"Last login: Wed Nov 25 from 192.0.2.9\n", 0));
        let Some(Answer::Said { bytes, .. }) = fixture.baseline.get(ask.name) else { continue };
        add("all of it, exit code 1", said(bytes, 1));
        for tenth in 1..10 {
            add(&format!("{tenth}0 % of it"), said(&bytes[..bytes.len() * tenth / 10], 0));
        }
        // Cut at the end of each line, as a tool that ends early does.
        let ends: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        for at in ends.iter().rev().skip(1).take(12) {
            add(&format!("cut after {at} bytes"), said(&bytes[..*at], 0));
        }
    }
    cells
}

fn say(name: &str, outcome: &Outcome) {
    let short: String = outcome.message.chars().take(110).collect();
    let what = if outcome.healthy { "well".to_owned() } else { format!("{}: {short}", outcome.reason) };
    println!("{name:<52} {what}");
    let steps: BTreeSet<&String> = outcome.steps.iter().collect();
    for step in steps {
        println!("{:<52} STEP {step}", "");
    }
}

fn main() -> ExitCode {
    if std::env::args().any(|word| word == "--list") {
        println!("do_no_harm: test");
        return ExitCode::SUCCESS;
    }
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let now = Timestamp::now();
    let stage = Stage::new(now.as_millisecond());
    let home = stage.home();
    let asks = facets::asks(&desired(&home));
    let baseline = stage.run(&asks, &stage.well(), "world", SHELLS[0].1, None);
    let well = Observation::read(now, &asks, &baseline, Questions::well(now).cluster);
    let fixture = Fixture { stage, spec: spec(desired(&home)), asks, now, baseline, well };
    let mut bad = 0;

    // Otherwise no failure could be seen in what follows.
    let well = fixture.judged(&fixture.baseline, &Questions::well(now));
    if !(well.healthy && well.steps.is_empty()) {
        say("a healthy host", &well);
        if std::env::var_os("HARM_SHOW").is_some() {
            for (name, answer) in &fixture.baseline {
                match answer {
                    Answer::Said { bytes, exit } => println!("--- {name} {exit}\n{}", String::from_utf8_lossy(bytes)),
                    Answer::Not(not) => println!("--- {name} {not:?}"),
                }
            }
        }
        bad += 1;
    }
    bad += real_faults(&fixture);

    let mut cells = tool_cells(&fixture.asks);
    cells.extend(section_cells(&fixture));
    let questions = questions::failing(now);
    cells.extend(questions.into_iter().map(|(name, one)| Cell { name, what: What::Questions(Box::new(one)) }));
    let outages = questions::outages().into_iter();
    cells.extend(outages.map(|(name, failure, view)| Cell { name, what: What::Outage(failure, Box::new(view)) }));
    if let Some(only) = &only {
        cells.retain(|cell| cell.name.contains(only.as_str()));
    }

    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Outcome)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((index, cell)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, cells.get(at)?)))
                {
                    let outcome = fixture.run(cell);
                    done.lock().unwrap().push((index, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(index, _)| *index);
    let mut steps = 0;
    for (index, outcome) in &done {
        say(&cells[*index].name, outcome);
        steps += outcome.steps.len();
        if outcome.steps.is_empty() && !outcome.healthy && outcome.message.is_empty() {
            println!("{:<52} NOTHING IS SAID", "");
            bad += 1;
        }
    }
    let harmed: Vec<&str> = done
        .iter()
        .filter(|(_, outcome)| !outcome.steps.is_empty())
        .map(|(index, _)| cells[*index].name.as_str())
        .collect();
    if !harmed.is_empty() {
        println!("\nharm was done in {} cells:\n  {}", harmed.len(), harmed.join("\n  "));
    }
    if only.is_none() && cells.len() < 200 {
        println!("too few cells");
        bad += 1;
    }
    println!("{} cells, {steps} steps", cells.len());
    if steps == 0 && bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is really broken leads to a step: else the cells would show nothing. How many of them do not.
fn real_faults(fixture: &Fixture) -> usize {
    let mut missed = 0;
    for (fault, kind) in [
        (Fault::WebMissing, "StartProcess"),
        (Fault::ProxyMissing, "StartKubectlProxy"),
        (Fault::RedirectMissing, "InsertRedirect"),
        (Fault::ModuleOld, "InstallModule"),
        (Fault::DiskFull, "RemoveContainers"),
        (Fault::ConfigEmpty, "DeleteEmptyDockerConfig"),
    ] {
        fixture.stage.world("fault", Some(fault));
        fixture.stage.broken_home(fault, true);
        let answers = fixture.stage.run(&fixture.asks, &fixture.stage.well(), "fault", SHELLS[0].1, None);
        fixture.stage.broken_home(fault, false);
        let outcome = fixture.judged(&answers, &Questions::well(fixture.now));
        let name = format!("really: {fault:?}");
        if !outcome.steps.iter().any(|step| step.starts_with(kind)) {
            println!("{name:<52} NO STEP, and {kind} is due");
            say(&name, &outcome);
            missed += 1;
        } else {
            println!("{name:<52} {kind}, as it must be");
        }
    }
    missed
}
