//! The operator in the lab: faults that really happen, heals that are seen in the world.
//!
//! Scenarios play in lanes side by side ([`LANES`] says in how many), each with a lab and an operator of its own. The next
//! scenario of the list plays on the lane that is free first; each leaves the fleet healthy, and after one that fails, its lane has
//! a new lab. What a scenario tells is printed in one piece when it has ended. The labs go down with this process, however it
//! ends.
//!
//! ```text
//! cargo test --workspace --test scenarios                        everything
//! cargo test --workspace --test scenarios -- heals::             the faults that are healed
//! BINDER_LANES=1 cargo test --workspace --test scenarios         one after the other, in one lab
//! BINDER_CAMPAIGN=long cargo test --workspace --test scenarios   all pairs of faults, and five minutes of quiet
//! ```

mod access;
mod backups;
mod converged;
mod crash;
mod database;
mod deletion;
mod described;
mod docker;
mod evidence;
mod heals;
mod keys;
mod modules;
mod no_harm;
mod observe;
mod place;
mod restarts;
mod set;
mod together;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use place::{Begins, Place};
use set::Set;

/// What a scenario comes to.
type Outcome = Result<(), Failed>;

/// The variable that says in how many lanes scenarios play.
const LANES: &str = "BINDER_LANES";
/// In how many without it, as far as there are processors. Most of a scenario is waiting.
const USUAL_LANES: usize = 2;

fn main() -> ExitCode {
    binder_lab::hidden();
    let mut arguments = Arguments::from_args();
    let lanes = match lanes(std::env::var(LANES).ok().as_deref(), arguments.test_threads) {
        Ok(lanes) => lanes,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    arguments.test_threads = Some(lanes);
    let place = match Place::new(lanes) {
        Ok(place) => Arc::new(place),
        Err(error) => {
            eprintln!("cannot start the tests' runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = Vec::new();
    observe::trials(&place, &mut trials);
    converged::first(&place, &mut trials);
    heals::trials(&place, &mut trials);
    // One of the longest: not when the other lanes have run out of work.
    converged::trials(&place, &mut trials);
    database::trials(&place, &mut trials);
    backups::trials(&place, &mut trials);
    docker::trials(&place, &mut trials);
    modules::trials(&place, &mut trials);
    keys::trials(&place, &mut trials);
    together::trials(&place, &mut trials);
    restarts::trials(&place, &mut trials);
    access::trials(&place, &mut trials);
    no_harm::trials(&place, &mut trials);
    described::trials(&place, &mut trials);
    crash::trials(&place, &mut trials);
    deletion::trials(&place, &mut trials);
    // At the end, when the other lanes run out of work anyway.
    heals::alone(&place, &mut trials);
    let conclusion = libtest_mimic::run(&arguments, trials);
    place.down();
    conclusion.exit_code()
}

/// Whether everything is to be played, and not only its short form: `BINDER_CAMPAIGN=long`.
fn long() -> bool {
    std::env::var("BINDER_CAMPAIGN").is_ok_and(|form| form == "long")
}

/// In how many lanes the scenarios play.
///
/// # Errors
/// The variable is no number from 1.
fn lanes(variable: Option<&str>, threads: Option<usize>) -> Result<usize, String> {
    let wanted = match variable {
        Some(text) => Some(text.parse().ok().filter(|lanes| *lanes > 0).ok_or_else(|| {
            format!("{LANES} is `{text}`; say in how many labs scenarios are to play side by side: 1, 2 or more")
        })?),
        None => threads.filter(|threads| *threads > 0),
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(wanted.unwrap_or_else(|| USUAL_LANES.min(processors)))
}

/// A scenario by its name, which begins with a healthy fleet.
fn trial<F>(place: &Arc<Place>, name: impl Into<String>, scenario: F) -> Trial
where
    F: AsyncFnOnce(&mut Set) -> Outcome + Send + 'static,
{
    trial_that(Begins::Healthy, place, name, scenario)
}

/// A scenario by its name, which begins as it says.
fn trial_that<F>(begins: Begins, place: &Arc<Place>, name: impl Into<String>, scenario: F) -> Trial
where
    F: AsyncFnOnce(&mut Set) -> Outcome + Send + 'static,
{
    let (place, name) = (Arc::clone(place), name.into());
    Trial::test(name.clone(), move || place.play(&name, begins, scenario))
}

/// Fails a scenario with what it should have been.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Failed::from(otherwise())) }
}

/// What sshd is asked to run for a look, always; written out here and not taken from the operator's code.
const LOOK: &str = "exec /bin/sh";

/// An error as a failure, with its causes.
fn failed(error: impl std::error::Error) -> Failed {
    Failed::from(binder_lab::said(&error))
}
