//! The operator in the lab: faults that really happen, heals that are seen in the world.
//!
//! One lab with one operator serves every scenario, in the order below; each leaves the fleet healthy, and after one that
//! fails, the next has a new lab. The lab goes down with this process, however it ends.
//!
//! ```text
//! cargo test --workspace --test scenarios                        everything
//! cargo test --workspace --test scenarios -- heals::             the faults that are healed
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
mod together;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use place::{Begins, Place};

/// What a scenario comes to.
type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    binder_lab::hidden();
    let mut arguments = Arguments::from_args();
    // They break the same machines: one at a time, in order.
    arguments.test_threads = Some(1);
    let place = match Place::new() {
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
    converged::trials(&place, &mut trials);
    deletion::trials(&place, &mut trials);
    let conclusion = libtest_mimic::run(&arguments, trials);
    place.down();
    conclusion.exit_code()
}

/// Whether everything is to be played, and not only its short form: `BINDER_CAMPAIGN=long`.
fn long() -> bool {
    std::env::var("BINDER_CAMPAIGN").is_ok_and(|form| form == "long")
}

/// A scenario by its name, which begins with a healthy fleet.
fn trial<F>(place: &Arc<Place>, name: impl Into<String>, scenario: F) -> Trial
where
    F: AsyncFnOnce(&mut place::Set) -> Outcome + Send + 'static,
{
    let place = Arc::clone(place);
    Trial::test(name, move || place.play(Begins::Healthy, scenario))
}

/// A scenario by its name, which begins with whatever is there: a bare fleet that is only observed, at first.
fn trial_on_any<F>(place: &Arc<Place>, name: impl Into<String>, scenario: F) -> Trial
where
    F: AsyncFnOnce(&mut place::Set) -> Outcome + Send + 'static,
{
    let place = Arc::clone(place);
    Trial::test(name, move || place.play(Begins::AsItIs, scenario))
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
