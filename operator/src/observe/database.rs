//! What Binder's database holds, read through the host's connection.

use crate::binder::database;
use crate::hosts::Session;
use binder_core::catalogue::Place;
use binder_core::seen::Fact;
use binder_core::seen::database::Database;
use binder_crds::Desired;

/// Asks, if a database is described here.
pub(super) async fn look(session: &Session, desired: &Desired) -> Fact<Database> {
    let Some(spec) = &desired.database else { return Fact::NotAsked };
    match database::read(session, &Place::of(spec), spec.names.is_some()).await {
        Ok(database) => Fact::Seen(database),
        Err(blind) => Fact::Unknown(blind),
    }
}
