//! The API and the chart against a real kube-apiserver: what it takes, what it refuses and in which words, what it fills
//! in, what it prints, and what the chart lets the operator do.
//!
//! One control plane serves the whole run. It is started by the first test that needs it and ended with the run, also
//! when tests fail, panic, or are interrupted. The cases of [`cases`] are data, and each is a test of its own:
//!
//! ```text
//! cargo test --workspace --test api                       everything
//! cargo test --workspace --test api -- refused::          what must be refused
//! cargo test --workspace --test api -- 'chart::'          the chart
//! ```
//!
//! Knows nothing of the operator's code: what is tested here is what people and Kubernetes see.

mod cases;
mod chart;
mod definitions;
mod objects;
mod place;
mod printed;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use place::Place;

/// What a test comes to.
type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let place = match Place::new() {
        Ok(place) => Arc::new(place),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = Vec::new();
    let listed = cases::trials(&place, &mut trials);
    definitions::trials(&place, &mut trials);
    objects::trials(&place, &mut trials);
    printed::trials(&place, &mut trials);
    chart::trials(&place, &mut trials);
    if let Err(error) = listed {
        eprintln!("the tables of cases cannot be used: {error}");
        return ExitCode::FAILURE;
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    place.down(conclusion.has_failed());
    conclusion.exit_code()
}

/// A test by its name, with what it needs of the place.
fn trial<F>(place: &Arc<Place>, name: impl Into<String>, test: F) -> Trial
where
    F: AsyncFnOnce(&Place) -> Outcome + Send + 'static,
{
    let place = Arc::clone(place);
    Trial::test(name, move || place.clone().block_on(test(&place)))
}

/// Fails a test with what it should have been.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Failed::from(otherwise())) }
}
