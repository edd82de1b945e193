//! `cargo sim`: many seeds, what occurred in them, and of a seed that fails a short history.

use binder_sim::case::{Case, Shape};
use binder_sim::coverage::Coverage;
use binder_sim::mutations;
use binder_sim::run::{Outcome, run};
use binder_sim::shrink::shrink;
use clap::Parser;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Runs the whole operator in simulated worlds.
#[derive(Debug, Parser)]
#[command(name = "cargo sim")]
struct Flags {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many threads; as many as there are processors otherwise.
    #[arg(long)]
    threads: Option<usize>,
    /// The most hosts of a fleet.
    #[arg(long, default_value_t = Shape::default().hosts)]
    hosts: u64,
    /// For how many seconds things happen in a world.
    #[arg(long, default_value_t = Shape::default().busy)]
    busy: u64,
    /// The most events in a world.
    #[arg(long, default_value_t = Shape::default().events)]
    events: u64,
    /// Go on after a failure, and count failures by invariant.
    #[arg(long)]
    keep_going: bool,
    /// Print the whole history of the one seed.
    #[arg(long)]
    history: bool,
    /// Run the case of this file (JSON) instead of seeds.
    #[arg(long)]
    case: Option<std::path::PathBuf>,
    /// Do not make a failing case shorter.
    #[arg(long)]
    as_it_is: bool,
    /// Break the operator's guards one by one, in a copy, and say what found each.
    #[arg(long)]
    mutations: bool,
    /// Only these of the guards, by name, with commas.
    #[arg(long, requires = "mutations", value_delimiter = ',')]
    only: Vec<String>,
    /// The profile that broken operators are built with.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Print the operator's own log, at this level (`info`, `debug`); of one seed.
    #[arg(long)]
    log: Option<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(level) = &flags.log {
        let filter = tracing_subscriber::EnvFilter::new(level);
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    binder_operator::panics::log_only_where();
    if let Some(path) = &flags.case {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        return match read.and_then(|text| serde_json::from_str::<Case>(&text).map_err(|error| error.to_string())) {
            Ok(case) => told(&flags, &case, run(&case, true)),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                ExitCode::FAILURE
            }
        };
    }
    if flags.mutations {
        return match mutations::all(&flags.only, flags.seeds, &flags.profile, |line| println!("{line}")) {
            Ok(missed) if missed.is_empty() => ExitCode::SUCCESS,
            Ok(missed) => {
                println!("nothing noticed: {}", missed.join(", "));
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let shape = Shape { hosts: flags.hosts, busy: flags.busy, events: flags.events };
    if flags.seeds == 1 {
        let case = Case::drawn(flags.seed, shape);
        let outcome = run(&case, true);
        return told(&flags, &case, outcome);
    }
    many(&flags, shape)
}

/// What one case came to.
fn told(flags: &Flags, case: &Case, outcome: Outcome) -> ExitCode {
    if flags.history {
        outcome.history.iter().for_each(|line| println!("{line}"));
    }
    println!(
        "trace {:016x}, {} calls, {} looks, {} s of the world",
        outcome.trace,
        outcome.passed,
        outcome.looks,
        outcome.lasted.as_secs()
    );
    if outcome.found.is_empty() {
        return ExitCode::SUCCESS;
    }
    failed(flags, case, &outcome);
    ExitCode::FAILURE
}

/// A failure, made short.
fn failed(flags: &Flags, case: &Case, outcome: &Outcome) {
    let (case, outcome) = if flags.as_it_is { (case.clone(), outcome.clone()) } else { shrink(case, outcome) };
    for found in &outcome.found {
        println!("BROKEN {} at {:.3} s: {}", found.invariant, found.at.as_secs_f64(), found.what);
    }
    let from = outcome.history.len().saturating_sub(60);
    println!("the last of {} lines of its history:", outcome.history.len());
    outcome.history[from..].iter().for_each(|line| println!("  {}", line.chars().take(400).collect::<String>()));
    match serde_json::to_string(&case) {
        Ok(text) => println!("the case: {text}"),
        Err(error) => println!("the case cannot be written: {error}"),
    }
}

fn many(flags: &Flags, shape: Shape) -> ExitCode {
    let threads = flags.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let begun = Instant::now();
    let (next, done, stop) = (AtomicU64::new(flags.seed), AtomicU64::new(0), AtomicBool::new(false));
    let end = flags.seed + flags.seeds;
    let all = Mutex::new((Coverage::default(), Vec::<(u64, Outcome)>::new(), Duration::ZERO, 0u64));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = (Coverage::default(), Duration::ZERO, 0u64);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let outcome = run(&Case::drawn(seed, shape), false);
                    own.0.add(&outcome.coverage);
                    own.1 += outcome.lasted;
                    own.2 += outcome.looks;
                    if let Some(first) = outcome.found.first() {
                        let what: String = first.what.chars().take(200).collect();
                        eprintln!("seed {seed}: {} at {:.1} s: {what}", first.invariant, first.at.as_secs_f64());
                        stop.fetch_or(!flags.keep_going, Ordering::Relaxed);
                        if let Ok(mut all) = all.lock() {
                            all.1.push((seed, outcome));
                        }
                    }
                    let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if count.is_multiple_of(1000) {
                        #[allow(clippy::cast_precision_loss, reason = "for a person")]
                        let rate = count as f64 / begun.elapsed().as_secs_f64();
                        eprintln!("{count} seeds, {rate:.0} a second");
                    }
                }
                if let Ok(mut all) = all.lock() {
                    all.0.add(&own.0);
                    all.2 += own.1;
                    all.3 += own.2;
                }
            });
        }
    });
    let Ok((coverage, mut failures, lasted, looks)) = all.into_inner() else { return ExitCode::FAILURE };
    let count = done.into_inner();
    #[allow(clippy::cast_precision_loss, reason = "for a person")]
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    print!("{}", coverage.report());
    println!(
        "{count} seeds in {:.0} s, {rate:.1} a second; {:.0} hours of worlds, {looks} looks; {} failed",
        begun.elapsed().as_secs_f64(),
        lasted.as_secs_f64() / 3600.0,
        failures.len()
    );
    failures.sort_by_key(|(seed, _)| *seed);
    let mut by_name = std::collections::BTreeMap::<&str, Vec<u64>>::new();
    for (seed, outcome) in &failures {
        by_name.entry(outcome.found.first().map_or("", |found| found.invariant)).or_default().push(*seed);
    }
    for (name, seeds) in &by_name {
        println!("{name}: {} (seeds {:?})", seeds.len(), &seeds[..seeds.len().min(12)]);
    }
    let Some((seed, outcome)) = failures.first() else { return ExitCode::SUCCESS };
    println!("seed {seed}:");
    failed(flags, &Case::drawn(*seed, shape), outcome);
    ExitCode::FAILURE
}
