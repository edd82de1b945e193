//! Edits of Binder's database, and its backup.

use super::{Backups, CannotExecute, Sent};
use crate::binder::database::{self, DatabaseError};
use crate::hosts::Session;
use binder_core::catalogue::Place;
use binder_core::facets::step::Edit;
use binder_core::gate::Permit;
use jiff::Timestamp;

/// Edits the database.
pub(super) async fn edit(place: &Place, edit: Edit, permit: Permit, session: &Session) -> Sent {
    edited(match edit {
        Edit::FailRunning { name, started } => database::fail_hung(session, permit, place, &name, started).await,
        Edit::FailUnusable { name } => database::fail_unusable(session, permit, place, &name).await,
    })
}

/// Backs the database up.
///
/// # Errors
/// [`CannotExecute`] when there is no place for the backup.
pub(super) async fn back_up(
    place: &Place,
    permit: Permit,
    session: &Session,
    backups: Option<Backups>,
) -> Result<Sent, CannotExecute> {
    let backups = backups.ok_or(CannotExecute::NoPlaceForBackups)?;
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

fn edited(result: Result<u64, DatabaseError>) -> Sent {
    match result {
        Ok(0) => Sent { may_have_run: true, said: "it is not what was seen any more, and was left alone".to_owned() },
        Ok(_) => Sent { may_have_run: true, said: "changed".to_owned() },
        Err(error) => Sent { may_have_run: error.may_have_run(), said: error.to_string() },
    }
}
