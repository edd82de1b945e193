//! Steps that are done in Binder's database, and by the build server's API.

use super::{CannotExecute, Sent, With};
use crate::binder::build_server;
use crate::binder::database::{self, DatabaseError};
use crate::hosts::Session;
use binder_core::facets::Step;
use binder_core::gate::Permit;
use jiff::Timestamp;

/// Carries out a step on the database of a machine, or by its build server.
///
/// # Errors
/// [`CannotExecute`] when something that it needs is not there.
pub(super) async fn carry_out(
    session: &Session,
    step: &Step,
    permit: Permit,
    with: With,
) -> Result<Sent, CannotExecute> {
    match step {
        Step::FailBuild { place, name, started } => {
            Ok(edited(database::fail_hung(session, permit, place, name, *started).await))
        }
        Step::FailUnusableBuild { place, name } => {
            Ok(edited(database::fail_unusable(session, permit, place, name).await))
        }
        Step::BackUp { place, .. } => {
            let backups = with.backups.ok_or(CannotExecute::NoPlaceForBackups)?;
            // Before: what earlier attempts left half written must not keep this one from having room. After: so must not what
            // this one leaves if it is cut off.
            let clean = || backups.store.clean(backups.keep, Timestamp::now());
            let before = clean().await;
            let made = database::back_up(session, permit, place, &backups.store).await;
            let cleaned = before.and(clean().await);
            // What is kept too long is no reason to doubt the backup; the next one cleans up again.
            let rest = cleaned.err().map(|error| format!("; but older ones stay: {error}")).unwrap_or_default();
            Ok(Sent {
                may_have_run: true,
                said: match made {
                    Ok(good) => format!("{}: {} documents, {} bytes{rest}", good.name, good.documents, good.bytes),
                    Err(said) => said + &rest,
                },
            })
        }
        Step::RebuildBuild { name, repository } => {
            let key =
                with.api_key.ok_or_else(|| CannotExecute::NoApiKey { component: format!("a build of {name}") })?;
            let port = with.build_server.ok_or(CannotExecute::NoBuildServer)?;
            let asked = build_server::build(session, permit, port, repository, key).await;
            Ok(Sent { may_have_run: asked.may_have_run, said: asked.said })
        }
        _ => Err(CannotExecute::NotHere),
    }
}

fn edited(result: Result<u64, DatabaseError>) -> Sent {
    match result {
        Ok(0) => Sent { may_have_run: true, said: "it is not what was seen any more, and was left alone".to_owned() },
        Ok(_) => Sent { may_have_run: true, said: "changed".to_owned() },
        Err(error) => Sent { may_have_run: error.may_have_run(), said: error.to_string() },
    }
}
