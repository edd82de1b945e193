//! What a look at the machine sees, as facts.

use crate::host::{LOGIN, World};
use binder_core::catalogue;
use binder_core::seen::machine::Machine;
use binder_core::seen::modules::{Found, Installed, Modules};
use binder_core::seen::nat::Nat;
use binder_core::seen::pm2::Table;
use binder_core::seen::proxy::{Cluster, Files, Kubectl, Proxy};
use binder_core::seen::restarts::Climb;
use binder_core::seen::routes::Routes;
use binder_core::seen::servers::{Health, JUDGED, Key, Servers, Verdict};
use binder_core::seen::{Fact, Observation, Reason, Unknown, disks};
use binder_crds::desired::Server;
use binder_crds::text::HostPath;
use jiff::SignedDuration;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The cluster behind the kubectl proxy.
pub const CLUSTER: &str = "1b671a64-40d5-491e-99b0-da01ff1f3341";

/// How a process climbs, where a world says that one does: it says so without counts.
pub const CLIMB: Climb = Climb {
    restarts: 5,
    lasting: SignedDuration::from_secs(60),
    quiet: SignedDuration::from_secs(1),
    every: SignedDuration::from_secs(5),
};

impl World {
    /// How full the disk is, as `df` says it.
    fn disk(&self) -> u8 {
        match &self.docker {
            Some(docker) => {
                u8::try_from((docker.used * 100).div_ceil((docker.used + docker.available).max(1))).unwrap_or(100)
            }
            None => self.disk,
        }
    }

    fn servers(&self) -> Servers {
        let mut seen = Servers::default();
        for server in self.desired.servers.iter().copied() {
            let (Some(_), component) = (catalogue::key_route(server), catalogue::server(server)) else { continue };
            let name = component.name;
            let key = match (self.listeners.contains_key(&component.ports[0]), self.other_key.contains(&name)) {
                (false, _) => Key::Silent("no connection to it".to_owned()),
                (true, true) => Key::Refused,
                (true, false) => Key::Accepted,
            };
            if key == Key::Accepted && server == Server::DeployKubernetes {
                seen.works.extend(["deploy".to_owned(), "build".to_owned()]);
            }
            if server == Server::Health {
                let now = self.now.as_second();
                let at = self.checker_stopped.unwrap_or(now - now % 40);
                let verdict = Verdict { running: !self.checker_wrong, at };
                let verdicts = JUDGED.iter().map(|name| ((*name).to_owned(), verdict)).collect();
                seen.health = Some(match key {
                    Key::Accepted => Ok(Health { verdicts }),
                    _ => Err("it does not answer".to_owned()),
                });
            }
            seen.keys.insert(name, key);
        }
        seen
    }

    /// What a look sees that sees everything.
    pub fn observe(&self) -> Observation {
        let redirect = "-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000\n";
        let served = self.listeners.contains_key(&8085);
        let identity = Cluster::Identity(CLUSTER.to_owned());
        Observation {
            machine: Fact::Seen(Machine {
                boot_id: self.boot_id(),
                uptime: self.uptime,
                clock: self.now.as_second() + self.clock_off,
                uid: LOGIN,
                ticks: 100,
                memory_left: Some(60),
                processes: self.processes.clone(),
                listeners: self.listeners.iter().map(|(port, pid)| (*port, vec![*pid])).collect(),
                unseen_owners: None,
            }),
            pm2: Fact::Seen(Table { daemon: true, rows: self.rows.clone(), ..Table::default() }),
            nat: if self.blind_nat {
                Fact::Unknown(Unknown { reason: Reason::ProbeTimedOut, message: "took too long".to_owned() })
            } else {
                Fact::Seen(Nat::of(&redirect.repeat(self.redirects), &[("eth0", Ipv4Addr::new(10, 0, 0, 2))]))
            },
            disks: Fact::Seen(BTreeMap::from([("/".to_owned(), disks::Use::Percent(self.disk()))])),
            docker: self.docker.clone().map_or(Fact::NotAsked, Fact::Seen),
            proxy: Fact::Seen(Proxy {
                kubectl: Kubectl::Script,
                program: None,
                files: Files::default(),
                cluster: if served { identity } else { Cluster::NoAnswer("refused".to_owned()) },
            }),
            servers: Fact::Seen(self.servers()),
            key_search: self.key_search.clone(),
            routes: Fact::Seen(Routes { live: 1, orphans: self.orphans.clone(), ..Routes::default() }),
            modules: self.web_module.as_ref().map_or(Fact::NotAsked, |(version, since)| {
                let installed =
                    Installed { version: version.as_str().into(), place: HostPath::from("/opt/binder"), since: *since };
                Fact::Seen(Modules::from([("binder-web".to_owned(), Found::Installed(installed))]))
            }),
            database: self.database.clone().map_or(Fact::NotAsked, Fact::Seen),
            backups: self.backups.clone().map_or(Fact::NotAsked, Fact::Seen),
            ..Observation::nothing(self.now)
        }
    }
}
