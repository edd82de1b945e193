//! `cargo demo`: the main job on the real thing. Brings up the lab, applies the owner's file, shows the fleet becoming
//! healthy, breaks it the way the runbook tells, shows each fault seen, decided and healed, and ends with a table. The exit
//! code is 0 only if every part of it happened.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use binder_lab::lab::take_down;
use binder_lab::layout::Layout;
use binder_lab::stage::acts::{self, Act, Report};
use binder_lab::stage::{NAMESPACE, Stage, owner};
use binder_lab::{Lab, Options};
use clap::Parser;

/// From a bare fleet to a healthy one.
const FIRST_HEALTHY: Duration = Duration::from_secs(600);

/// Shows a fleet of the runbook's machines being kept well.
#[derive(Debug, Parser)]
#[command(name = "demo", bin_name = "cargo demo")]
struct Flags {
    /// Leave everything up afterwards, and say how to go on with it. The operator ends with the demo; `cargo lab operator`
    /// starts it again.
    #[arg(long)]
    keep: bool,
    /// Play every fault of the runbook in turn, and not only the short story.
    #[arg(long)]
    all: bool,
    /// Play this one fault, in a lab that stays up with its operator, so that the next takes seconds. Without such a lab, one is
    /// brought up first; an operator of an older build is replaced.
    #[arg(long, value_name = "FAULT", conflicts_with_all = ["keep", "all"])]
    one: Option<String>,
    /// The name of the lab.
    #[arg(long, default_value = "demo")]
    lab: String,
}

fn main() -> ExitCode {
    binder_lab::hidden();
    let options = Flags::parse();
    let voice = Voice { colour: std::io::stdout().is_terminal(), began: Instant::now() };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&options, &voice)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", binder_lab::said(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// How the demo speaks: with colour on a terminal, in plain lines into a pipe.
struct Voice {
    colour: bool,
    began: Instant,
}

impl Voice {
    fn title(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs();
        if self.colour {
            println!("\n\x1b[1;36m[{seconds:>4} s] {text}\x1b[0m");
        } else {
            println!("\n[{seconds:>4} s] {text}");
        }
    }

    fn line(&self, text: &str) {
        println!("         {}", text.trim_end().replace('\n', "\n         "));
    }

    fn verdict(&self, good: bool, text: &str) {
        match (self.colour, good) {
            (true, true) => println!("\x1b[32m{text}\x1b[0m"),
            (true, false) => println!("\x1b[1;31m{text}\x1b[0m"),
            (false, _) => println!("{text}"),
        }
    }
}

type Failure = Box<dyn std::error::Error>;

async fn run(options: &Flags, voice: &Voice) -> Result<bool, Failure> {
    if let Some(fault) = &options.one {
        return one(fault, &options.lab, voice).await;
    }
    voice.title("bringing up the lab: a control plane and the runbook's machines, with the real Binder software");
    voice.line("what is missing is installed and built once; the first time takes some twenty minutes on two cores");
    let mut wanted = Options::named(&options.lab);
    if !options.keep {
        wanted = wanted.owned_by_this_process();
    }
    let lab = Lab::up(wanted, |line| voice.line(line)).await?;
    let played = tokio::select! {
        played = play(lab, options.all, voice) => played,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    if options.keep {
        let status = Lab::open(&options.lab)?.status()?;
        voice.title("left up");
        voice.line(&format!("export KUBECONFIG={}", status.kubeconfig.display()));
        voice.line(&format!("cargo lab --lab {} operator      # the operator again", options.lab));
        voice.line(&format!("cargo lab --lab {} down          # take it away", options.lab));
    } else {
        voice.title("taking the lab away");
        take_down(&Layout::of(&options.lab)?).await?;
    }
    played
}

async fn play(lab: Lab, all: bool, voice: &Voice) -> Result<bool, Failure> {
    let mut stage = Stage::set(lab, |line| voice.line(line)).await?;
    voice.title("applying the owner's file: one BinderFleet");
    let file = owner::file(&stage.lab.status()?, "Enforce");
    voice.line(&stage.kubectl.apply(&file.to_string()).await?);
    stage.start_operator().await?;
    voice.line("no Binder process runs on any machine yet; the operator starts them in the runbook's order");
    let hosts: Vec<String> = stage.lab.status()?.hosts.into_iter().map(|host| host.name).collect();
    let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let began = Instant::now();
    let healthy = async {
        let hosts = stage.healthy(&names, FIRST_HEALTHY);
        tokio::pin!(hosts);
        loop {
            tokio::select! {
                done = &mut hosts => return done,
                () = tokio::time::sleep(Duration::from_secs(10)) => {
                    voice.line(&format!("{} s", began.elapsed().as_secs()));
                    voice.line(&glance(&stage).await);
                }
            }
        }
    };
    if let Err(error) = healthy.await {
        voice.line(&stage.told().await);
        return Err(error.into());
    }
    voice.title(&format!("healthy {} s after the file was applied", began.elapsed().as_secs()));
    voice.line(&glance(&stage).await);
    stage.lab.binder()?.healthy().await?;
    voice.line("Binder's own /health/ says that deploy and build are running");

    let mut rows = Vec::new();
    let acts: Vec<&'static Act> = if all { acts::all().collect() } else { acts::short().collect() };
    for act in &acts {
        voice.title(&format!("{}: {}", act.fault, act.title));
        match act.play(&stage, |line| voice.line(line)).await {
            Ok(report) => {
                voice.line(&format!("kubectl describe bh {} said, while it was broken:", act.host));
                voice.line(&status_of(&report.described));
                rows.push((act.fault, Ok(report)));
            }
            Err(error) => {
                let said = binder_lab::said(&error);
                voice.line(&said);
                voice.line(&stage.told().await);
                rows.push((act.fault, Err(said)));
            }
        }
    }
    let ended = stage.stop_operator().await?;
    voice.line(&format!("the operator ended {:.1} s after SIGTERM", ended.as_secs_f32()));
    Ok(table(voice, acts.len(), &rows))
}

/// Plays one act in a lab that stays up.
async fn one(fault: &str, name: &str, voice: &Voice) -> Result<bool, Failure> {
    let act = acts::act(fault).ok_or_else(|| {
        let known: Vec<&str> = acts::all().map(|act| act.fault).collect();
        format!("nothing is known of a fault `{fault}` that could be played; there are {}", known.join(", "))
    })?;
    let up = Lab::open(name).ok().filter(|lab| lab.status().is_ok_and(|status| status.is_up()));
    let lab = match up {
        Some(lab) => lab,
        None => {
            voice.title("bringing up a lab that stays: a control plane and the runbook's machines");
            Lab::up(Options::named(name), |line| voice.line(line)).await?
        }
    };
    let stage = Stage::set(lab, |line| voice.line(line)).await?;
    stage.kubectl.apply(&owner::file(&stage.lab.status()?, "Enforce").to_string()).await?;
    if stage.keep_operator().await? {
        voice.line("the operator of this checkout runs, and stays");
    }
    let hosts: Vec<String> = stage.lab.status()?.hosts.into_iter().map(|host| host.name).collect();
    let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    voice.title(&format!("{}: {}", act.fault, act.title));
    let played = match stage.healthy(&names, FIRST_HEALTHY).await {
        Ok(()) => act.play(&stage, |line| voice.line(line)).await.map_err(|error| binder_lab::said(&error)),
        Err(error) => Err(binder_lab::said(&error)),
    };
    if let Err(said) = &played {
        voice.line(said);
        voice.line(&stage.told().await);
    }
    let good = table(voice, 1, &[(act.fault, played)]);
    voice.title("left up, with its operator");
    voice.line(&format!("export KUBECONFIG={}", stage.lab.status()?.kubeconfig.display()));
    voice.line(&format!("cargo lab --lab {name} down          # take it away"));
    Ok(good)
}

async fn glance(stage: &Stage) -> String {
    stage.kubectl.run(&["-n", NAMESPACE, "get", "bf,bh"]).await.unwrap_or_else(|error| binder_lab::said(&error))
}

/// The part of `kubectl describe` that tells the story.
fn status_of(described: &str) -> String {
    let lines = described.lines().skip_while(|line| !line.starts_with("Status:"));
    lines.take_while(|line| !line.starts_with("Events:")).collect::<Vec<_>>().join("\n")
}

fn table(voice: &Voice, acts: usize, rows: &[(&str, Result<Report, String>)]) -> bool {
    voice.title("what happened");
    println!("{:<24} {:>8} {:>8} {:>8}  REMEDY, AND WHAT WAS VERIFIED", "FAULT", "SEEN", "HEALED", "ATTEMPTS");
    for (fault, row) in rows {
        match row {
            Ok(report) => {
                let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f32());
                let row = format!(
                    "{fault:<24} {:>8} {:>8} {:>8}",
                    seconds(report.seen_after),
                    seconds(report.healed_after),
                    report.attempts
                );
                // One step a line, below each other.
                let verified = format!("verified: {}", report.verified);
                let mut lines: Vec<&str> = report.did.iter().map(|(step, _)| step.as_str()).collect();
                if lines.is_empty() {
                    lines.push("said, and left to a person");
                }
                lines.push(&verified);
                let below = format!("\n{:width$}  ", "", width = row.len());
                voice.verdict(true, &format!("{row}  {}", lines.join(&below)));
            }
            Err(said) => voice.verdict(false, &format!("{fault:<24} FAILED: {said}")),
        }
    }
    let good = rows.len() == acts && rows.iter().all(|(_, row)| row.is_ok());
    voice.verdict(good, if good { "every one of them was seen and healed" } else { "not all of it happened" });
    good
}
