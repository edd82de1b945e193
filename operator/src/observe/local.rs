//! The probe of a look, answered by a shell of this computer: for tests of what is concluded when a tool fails.

use super::{answer, section};
use crate::hosts::local::{self, LocalError};
use crate::hosts::{Probe, Section};
use binder_core::seen::{Answer, Ask};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

/// Answers to the sections, as [`super::look`] takes them from a machine. `limit` is in place of each section's own.
///
/// # Errors
/// [`LocalError`] when nothing could be run.
pub fn answers(
    asks: &[Ask],
    limit: Option<Duration>,
    shell: &mut Command,
    within: Duration,
) -> Result<BTreeMap<String, Answer>, LocalError> {
    let shortened = |ask: &Ask| {
        let section = section(ask);
        Section { limit: limit.unwrap_or(section.limit), ..section }
    };
    let sections = local::look(&Probe::new(asks.iter().map(shortened).collect())?, shell, within)?;
    Ok(sections.into_iter().map(|(name, output)| (name.to_owned(), answer(output))).collect())
}
