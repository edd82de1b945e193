//! Hosts by the fleets that govern them, kept up with what the watches tell: no pass over a host walks over all of them, and
//! a selector is read once for each version of its fleet. Data only; who governs whom is [`fleet::governs`]'s to say.

use super::fleet;
use binder_crds::{BinderFleet, BinderHost};
use kube::ResourceExt;
use kube::core::Selector;
use kube::runtime::watcher::Event;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Hosts by name, always in the same order: no decision may hang on the order of a hash map.
pub(super) type Hosts = Arc<[Arc<BinderHost>]>;

/// Who is governed by whom.
#[derive(Debug, Default)]
pub(crate) struct Members(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// By namespace.
    places: HashMap<String, Namespace>,
    /// Lists that are being read, until they are whole.
    listed_hosts: Vec<Arc<BinderHost>>,
    listed_fleets: Vec<Arc<BinderFleet>>,
}

/// What there is in one namespace, by name.
#[derive(Debug, Default)]
struct Namespace {
    hosts: BTreeMap<String, Arc<BinderHost>>,
    fleets: BTreeMap<String, Ruling>,
}

/// A fleet, and what it governs.
#[derive(Debug)]
struct Ruling {
    fleet: Arc<BinderFleet>,
    selector: Option<Selector>,
    hosts: BTreeMap<String, Arc<BinderHost>>,
    /// The same as a list, made when it is asked for.
    list: Option<Hosts>,
}

impl Ruling {
    fn take(&mut self, name: &str, host: &Arc<BinderHost>) {
        if fleet::governs_by(&self.fleet, self.selector.as_ref(), host) {
            self.hosts.insert(name.to_owned(), Arc::clone(host));
            self.list = None;
        } else {
            self.drop(name);
        }
    }

    fn drop(&mut self, name: &str) {
        if self.hosts.remove(name).is_some() {
            self.list = None;
        }
    }
}

impl Namespace {
    fn host(&mut self, host: Arc<BinderHost>) {
        let name = host.name_any();
        self.fleets.values_mut().for_each(|ruling| ruling.take(&name, &host));
        self.hosts.insert(name, host);
    }

    fn drop_host(&mut self, name: &str) {
        self.hosts.remove(name);
        self.fleets.values_mut().for_each(|ruling| ruling.drop(name));
    }

    fn fleet(&mut self, fleet: Arc<BinderFleet>) {
        let selector = fleet::selector(&fleet);
        let name = fleet.name_any();
        let mut ruling = Ruling { fleet, selector, hosts: BTreeMap::new(), list: None };
        self.hosts.iter().for_each(|(name, host)| ruling.take(name, host));
        self.fleets.insert(name, ruling);
    }
}

impl Members {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the watch of hosts tells.
    pub(super) fn host(&self, event: &Event<BinderHost>) {
        let mut all = self.lock();
        match event {
            Event::Apply(host) => all.of(host).host(Arc::new(host.clone())),
            Event::Delete(host) => all.of(host).drop_host(&host.name_any()),
            Event::Init => all.listed_hosts.clear(),
            Event::InitApply(host) => all.listed_hosts.push(Arc::new(host.clone())),
            Event::InitDone => {
                for place in all.places.values_mut() {
                    place.hosts.clear();
                    for ruling in place.fleets.values_mut() {
                        ruling.hosts.clear();
                        ruling.list = None;
                    }
                }
                for host in std::mem::take(&mut all.listed_hosts) {
                    all.of(&*host).host(host);
                }
            }
        }
    }

    /// Takes in what the watch of fleets tells.
    pub(super) fn fleet(&self, event: &Event<BinderFleet>) {
        let mut all = self.lock();
        match event {
            Event::Apply(fleet) => all.of(fleet).fleet(Arc::new(fleet.clone())),
            Event::Delete(fleet) => drop(all.of(fleet).fleets.remove(&fleet.name_any())),
            Event::Init => all.listed_fleets.clear(),
            Event::InitApply(fleet) => all.listed_fleets.push(Arc::new(fleet.clone())),
            Event::InitDone => {
                all.places.values_mut().for_each(|place| place.fleets.clear());
                for fleet in std::mem::take(&mut all.listed_fleets) {
                    all.of(&*fleet).fleet(fleet);
                }
            }
        }
    }

    /// The hosts that a fleet governs, by name.
    pub(super) fn of(&self, fleet: &BinderFleet) -> Hosts {
        let mut all = self.lock();
        let place = all.of(fleet);
        match place.fleets.get_mut(&fleet.name_any()) {
            // The very one that is asked about, or one that governs as it does.
            Some(known) if same(&known.fleet, fleet) => {
                Arc::clone(known.list.get_or_insert_with(|| known.hosts.values().cloned().collect()))
            }
            _ => place.hosts.values().filter(|host| fleet::governs(fleet, host)).cloned().collect(),
        }
    }

    /// The fleets that govern a host, by name.
    pub(super) fn governing(&self, host: &BinderHost) -> Vec<Arc<BinderFleet>> {
        let mut all = self.lock();
        let fleets = all.of(host).fleets.values();
        let governing = fleets.filter(|ruling| fleet::governs_by(&ruling.fleet, ruling.selector.as_ref(), host));
        governing.map(|ruling| Arc::clone(&ruling.fleet)).collect()
    }

    /// Every host of a namespace, by name.
    pub(super) fn in_namespace(&self, namespace: &str) -> Vec<Arc<BinderHost>> {
        self.lock().places.get(namespace).map(|place| place.hosts.values().cloned().collect()).unwrap_or_default()
    }

    /// A host.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<BinderHost>> {
        self.lock().places.get(namespace)?.hosts.get(name).cloned()
    }
}

impl All {
    fn of(&mut self, object: &impl ResourceExt) -> &mut Namespace {
        self.places.entry(object.namespace().unwrap_or_default()).or_default()
    }
}

fn same(known: &BinderFleet, fleet: &BinderFleet) -> bool {
    known.metadata.uid == fleet.metadata.uid && known.metadata.generation == fleet.metadata.generation
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use serde_json::json;

    fn host(name: &str, team: &str) -> BinderHost {
        serde_json::from_value(json!({
            "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderHost",
            "metadata": {"name": name, "namespace": "binder", "uid": format!("uid-{name}"), "labels": {"team": team}},
            "spec": {"address": "192.0.2.1", "hostKeys": []},
        }))
        .unwrap()
    }

    fn fleet(name: &str, generation: i64, team: &str) -> BinderFleet {
        serde_json::from_value(json!({
            "apiVersion": "fleet.binder-project.org/v1alpha1", "kind": "BinderFleet",
            "metadata": {"name": name, "namespace": "binder", "uid": format!("uid-{name}"), "generation": generation},
            "spec": {
                "access": {"user": "andrew", "keySecretRef": {"name": "login"}},
                "hostSelector": {"matchLabels": {"team": team}},
            },
        }))
        .unwrap()
    }

    fn names(members: &Members, fleet: &BinderFleet) -> Vec<String> {
        members.of(fleet).iter().map(|host| host.name_any()).collect()
    }

    #[test]
    fn hosts_are_found_by_the_fleet_that_governs_them_whatever_was_told_first() {
        let members = Members::default();
        let (one, other) = (fleet("one", 1, "a"), fleet("other", 1, "b"));
        members.host(&Event::Apply(host("web", "a")));
        members.fleet(&Event::Apply(one.clone()));
        members.fleet(&Event::Apply(other.clone()));
        members.host(&Event::Apply(host("db", "a")));
        assert_eq!(names(&members, &one), ["db", "web"]);
        members.host(&Event::Apply(host("web", "b")));
        assert_eq!((names(&members, &one), names(&members, &other)), (vec!["db".to_owned()], vec!["web".to_owned()]));
        assert_eq!(members.governing(&host("new", "b"))[0].name_any(), "other", "one that was not told of yet");
        members.fleet(&Event::Apply(fleet("one", 2, "b")));
        assert_eq!(names(&members, &fleet("one", 2, "b")), ["web"]);
        assert_eq!(
            names(&members, &one),
            ["db"],
            "a pass that still has the version before sees what that one governs"
        );
        assert_eq!(members.governing(&host("web", "b")).len(), 2);
        members.host(&Event::Delete(host("web", "b")));
        assert!(names(&members, &other).is_empty());
        members.fleet(&Event::Delete(other));
        assert_eq!(members.governing(&host("web", "b")).len(), 1);
    }

    #[test]
    fn a_list_takes_the_place_of_what_was_known() {
        let members = Members::default();
        let one = fleet("one", 1, "a");
        members.fleet(&Event::Apply(one.clone()));
        members.host(&Event::Apply(host("old", "a")));
        members.host(&Event::Init);
        members.host(&Event::InitApply(host("new", "a")));
        assert_eq!(names(&members, &one), ["old"], "it is not whole yet");
        members.host(&Event::InitDone);
        assert_eq!(names(&members, &one), ["new"]);
        assert!(members.get("binder", "old").is_none() && members.get("binder", "new").is_some());
        members.fleet(&Event::Init);
        members.fleet(&Event::InitDone);
        assert!(members.governing(&host("new", "a")).is_empty());
    }
}
