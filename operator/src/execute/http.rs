//! Calls to Binder's servers: deleting routes from its proxy, asking the build server for a build.

use super::{CannotExecute, Sent, With, routes};
use crate::binder::build_server;
use crate::hosts::Session;
use binder_core::facets::step::HttpCall;
use binder_core::gate::Permit;

/// Makes a call; `what` it is for, in words.
///
/// # Errors
/// [`CannotExecute`] when something that it needs is not there.
pub(super) async fn carry_out(
    call: HttpCall,
    what: &str,
    permit: Permit,
    session: &Session,
    with: With,
) -> Result<Sent, CannotExecute> {
    Ok(match call {
        HttpCall::DeleteRoutes { routes, port } => routes::delete(session, permit, &routes, port).await,
        HttpCall::Build { repository } => {
            let key = with.api_key.ok_or_else(|| CannotExecute::NoApiKey { what: what.to_owned() })?;
            let port = with.build_server.ok_or(CannotExecute::NoBuildServer)?;
            let asked = build_server::build(session, permit, port, &repository, key).await;
            Sent { may_have_run: asked.may_have_run, said: asked.said }
        }
    })
}
