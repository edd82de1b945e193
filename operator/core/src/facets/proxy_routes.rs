//! Facet `proxy_routes`: Binder's proxy holds no route to an app that is gone (the runbook's open issue "proxy server is holding
//! on to old routes": preloading makes many). A route is stale when its namespace has been missing for a while, in every look.

use super::step::{Effect, How, HttpCall, Later, Nature, OfModules, Recovers, Remedy, Touches, kinds_of_steps};
use super::{Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::gate::demands::Demands;
use crate::seen::routes::{AppId, mark};
use crate::seen::{Ask, Observation, Unknown};
use binder_crds::desired::Server;
use binder_crds::text::BadText;
use binder_crds::{Desired, conditions};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The facet.
pub struct ProxyRoutes;

/// A route outlives its namespace by moments when an app is culled; `binder-deploy-kubernetes` deletes it right after the
/// namespace is gone.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// As many go in one step: each takes two questions and a deletion, some 20 ms altogether.
pub const AT_ONCE: usize = 100;

/// Long enough for as many.
const TAKES_EFFECT: Duration = Duration::from_secs(60);

impl Facet for ProxyRoutes {
    fn condition(&self) -> &'static str {
        conditions::ROUTES_LIVE
    }

    fn in_use(&self, desired: &Desired) -> bool {
        desired.kubectl_proxy.is_some() && desired.servers.contains(&Server::DeployKubernetes)
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        Vec::new()
    }

    fn check(&self, _: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let routes = seen.routes.get()?;
        let stale = stale(seen).count();
        let mut check = Check {
            as_described: "every route of the proxy leads to an app whose namespace is there".to_owned(),
            ..Check::default()
        };
        let mut say = |kind, short: String, evidence| {
            check.drifts.push(Drift { kind, subject: Subject::Routes, short, evidence });
        };
        if stale > 0 {
            let (routes, lead, namespaces) =
                if stale == 1 { ("route", "leads", "an app") } else { ("routes", "lead", "apps") };
            say(
                DriftKind::RoutesStale,
                format!("{stale} stale {routes}"),
                format!("{stale} {routes} of the proxy {lead} to {namespaces} whose namespace is gone"),
            );
        } else if routes.odd_count > 0 {
            let count = routes.odd_count;
            say(
                DriftKind::RouteOdd,
                format!("{count} odd in the proxy's routes"),
                format!("the proxy holds what can be no app's route: {}", routes.odd.join(" ")),
            );
        }
        Ok(check)
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        super::LAST
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let Some(proxy) = desired.kubectl_proxy.as_ref().filter(|_| drift.kind == DriftKind::RoutesStale) else {
            return Vec::new();
        };
        let routes: Vec<AppId> = stale(seen).take(AT_ONCE).cloned().collect();
        if routes.is_empty() {
            return Vec::new();
        }
        vec![Rung::new(Step::DeleteRoutes { routes, port: proxy.port }, TAKES_EFFECT)]
    }
}

/// The routes whose namespaces have been gone for long enough.
fn stale(seen: &Observation) -> impl Iterator<Item = &AppId> {
    let orphans = seen.routes.seen().map(|routes| &routes.orphans).into_iter().flatten();
    orphans.filter(|id| seen.lasting.age(&mark(id), seen.at) >= STALE_AFTER)
}

/// A step against stale routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Delete stale routes from Binder's proxy.
    DeleteRoutes {
        /// The apps whose routes they are; exactly these.
        routes: Vec<AppId>,
        /// The kubectl proxy's port, through which the cluster is asked about each of them once more.
        port: u16,
    },
}

kinds_of_steps!(Step: DeleteRoutes);

impl Remedy for Step {
    fn words(&self) -> String {
        let Self::DeleteRoutes { routes, .. } = self;
        match routes.len() {
            1 => "delete 1 stale route".to_owned(),
            many => format!("delete {many} stale routes"),
        }
    }

    fn nature(&self) -> Nature<'_> {
        Nature {
            touches: Touches::Nothing,
            demands: Demands::TWO_LOOKS,
            in_turn: false,
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: false,
            rests_on_age: false,
            starts: false,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        // The apps are typed where they are read.
        Ok(())
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let Self::DeleteRoutes { routes, .. } = self;
        let orphans = &later.seen.routes.get()?.orphans;
        let left = routes.iter().filter(|id| orphans.contains(*id)).count();
        Ok(if left == 0 {
            Effect::Seen("the proxy holds none of them without its app any more".to_owned())
        } else {
            Effect::NotYet(format!("the proxy still holds {left} of them"))
        })
    }

    fn how(&self) -> How {
        let Self::DeleteRoutes { routes, port } = self;
        How::Http(HttpCall::DeleteRoutes { routes: routes.clone(), port: *port })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;
    use crate::seen::lasting::Lasting;
    use crate::seen::routes::Routes;
    use binder_crds::desired::KubectlProxy;
    use binder_crds::text::HostPath;
    use jiff::{SignedDuration, Timestamp};
    use std::collections::BTreeSet;

    fn id(number: usize) -> AppId {
        AppId::try_from(format!("{number:032x}")).unwrap()
    }

    fn look(orphans: &[usize], before: &Lasting, at: Timestamp) -> Observation {
        let orphans: BTreeSet<AppId> = orphans.iter().map(|number| id(*number)).collect();
        let mut seen = Observation::nothing(at);
        seen.routes = Fact::Seen(Routes { live: 3, orphans, ..Routes::default() });
        seen.lasting = before.carried(seen.marks(), at);
        seen
    }

    fn deleted(seen: &Observation) -> Vec<AppId> {
        let proxy = KubectlProxy { port: 8085, kubectl: HostPath::from("/k.sh"), cluster_id: None };
        let desired = Desired { kubectl_proxy: Some(proxy), ..Desired::default() };
        let check = ProxyRoutes.check(&desired, seen).unwrap();
        let steps = check.drifts.iter().flat_map(|drift| ProxyRoutes.ladder(&desired, seen, drift));
        steps
            .flat_map(|rung| match rung.step {
                super::super::Step::ProxyRoutes(Step::DeleteRoutes { routes, .. }) => routes,
                _ => Vec::new(),
            })
            .collect()
    }

    #[test]
    fn only_what_was_stale_in_every_look_for_long_enough_is_deleted() {
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let first = look(&[1, 2], &Lasting::default(), at(0));
        assert!(deleted(&first).is_empty());
        // The second one has its namespace again for one look, and a third one is new.
        let second = look(&[1, 3], &first.lasting, at(20));
        let third = look(&[1, 2, 3], &second.lasting, at(31));
        assert_eq!(deleted(&third), [id(1)]);
        let fourth = look(&[1, 2, 3], &third.lasting, at(62));
        assert_eq!(deleted(&fourth), [id(1), id(2), id(3)]);
        // What could not be seen once begins anew.
        let mut blind = Observation::nothing(at(70));
        blind.lasting = fourth.lasting.carried(blind.marks(), at(70));
        assert!(deleted(&look(&[1, 2, 3], &blind.lasting, at(80))).is_empty());
    }

    #[test]
    fn many_go_in_several_steps() {
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let all: Vec<usize> = (0..300).collect();
        let first = look(&all, &Lasting::default(), at(0));
        assert_eq!(deleted(&look(&all, &first.lasting, at(40))).len(), AT_ONCE);
    }

    #[test]
    fn odd_routes_are_said_and_never_deleted() {
        let mut seen = look(&[], &Lasting::default(), Timestamp::UNIX_EPOCH);
        seen.routes = Fact::Seen(Routes { odd: vec!["/user/..".to_owned()], odd_count: 1, ..Routes::default() });
        let check = ProxyRoutes.check(&Desired::default(), &seen).unwrap();
        assert_eq!(check.drifts[0].kind, DriftKind::RouteOdd);
        assert!(deleted(&seen).is_empty());
    }
}
