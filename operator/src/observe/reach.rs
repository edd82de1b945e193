//! Which described ports of other machines the host can reach.

use super::FleetContext;
use crate::hosts::{Reach, Session};
use binder_core::seen::Fact;
use binder_core::seen::reach::{Reached, Reaches, subject};
use binder_crds::Desired;
use binder_crds::desired;
use futures::future::join_all;

/// So many that could not be told apart are asked again, one after another.
const ASK_AGAIN: usize = 4;

/// Asks for all of them at once.
pub(super) async fn ask(session: &Session, desired: &Desired, around: &FleetContext) -> Fact<Reaches> {
    if desired.reaches.is_empty() {
        return Fact::NotAsked;
    }
    let asked =
        desired.reaches.iter().map(|wanted| async move { (subject(wanted), one(session, wanted, around).await) });
    let mut reaches: Reaches = join_all(asked).await.into_iter().collect();
    // sshd does not say which of several connections a refusal belongs to; alone, it is told.
    let unknown = |wanted: &&desired::Reach| matches!(reaches.get(&subject(wanted)), Some(Reached::Unknown(_)));
    for wanted in desired.reaches.iter().filter(unknown).take(ASK_AGAIN).collect::<Vec<_>>() {
        let found = one(session, wanted, around).await;
        reaches.insert(subject(wanted), found);
    }
    Fact::Seen(reaches)
}

async fn one(session: &Session, wanted: &desired::Reach, around: &FleetContext) -> Reached {
    let address = match (&wanted.host, &wanted.address) {
        (Some(host), _) => around.addresses.get(&host.0).map(String::as_str),
        (None, address) => address.as_ref().map(|address| address.0.as_str()),
    };
    let Some(address) = address else { return Reached::NoSuchHost };
    match session.can_reach(address, wanted.port).await {
        Reach::Open => Reached::Open,
        Reach::Refused => Reached::Refused,
        Reach::TimedOut { .. } => Reached::NoAnswer,
        Reach::NoRoute => Reached::NoRoute,
        Reach::NameNotFound => Reached::NameNotFound,
        Reach::Unknown(why) => Reached::Unknown(why),
    }
}
