//! One machine of the simulated fleet: what runs on it ([`World`]), whether it is switched on, and whether it is as its
//! description wants it, in truth.

use crate::case::{Break, Role};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use binder_core::catalogue;
use binder_core::facets::{FACETS, Step};
use binder_core::seen::docker::{Answers, Container, Docker, Image};
use binder_core::seen::pm2::State as Pm2;
use binder_crds::Desired;
use binder_crds::desired::{self, Disk, Reclaim, Service};
use binder_world::{World, web};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;

/// Whether a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It does.
    On,
    /// It takes connections and says nothing.
    Frozen(Duration),
    /// Nothing of it answers.
    Hung(Duration),
    /// It is off.
    Off(Duration),
    /// It boots until then.
    Booting {
        /// Since when.
        since: Duration,
        /// Until when.
        until: Duration,
    },
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name in the fleet's list.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its instance's name.
    pub instance: String,
    /// What it is for.
    pub role: Role,
    /// What runs on it.
    pub world: World,
    /// Whether it runs.
    pub power: Power,
    /// When it was last started.
    pub started: Duration,
    /// Which host key it has; 0 is pinned.
    pub key: u8,
    /// Whether it refuses the operator's login.
    pub refuses: bool,
    /// How far its own time has come.
    synced: Duration,
    /// Since when it has been as described.
    pub well_since: Option<Duration>,
    /// Since when it has been up and answering.
    pub alive_since: Option<Duration>,
    /// How long it takes to boot, in seconds.
    pub boots_for: u64,
}

/// What a role is described to be.
pub fn desired(role: Role) -> Desired {
    match role {
        Role::Web => web(),
        Role::Services => Desired {
            services: vec![Service::Db],
            disks: vec![Disk { path: "/".into(), max_used: "85%".into() }],
            ..Desired::default()
        },
        Role::Build => Desired {
            disks: vec![Disk { path: "/".into(), max_used: "85%".into() }],
            docker: Some(desired::Docker {
                reclaim: Some(Reclaim { schedule: None, unused_for: "1h".into(), ..Reclaim::default() }),
            }),
            ..Desired::default()
        },
    }
}

/// The described host key of a machine: of its number and nothing else.
pub fn host_key(number: usize) -> String {
    let name = b"ssh-ed25519";
    let mut blob = Vec::new();
    for part in [&name[..], &[u8::try_from(number).unwrap_or_default() ^ 0x5a; 32]] {
        blob.extend(u32::try_from(part.len()).unwrap_or_default().to_be_bytes());
        blob.extend(part);
    }
    format!("ssh-ed25519 {}", BASE64_STANDARD.encode(blob))
}

const MB: u64 = 1_000_000;

fn docker(used: u64, now: Timestamp) -> Docker {
    let id = |number: u64| format!("{number:064x}");
    let image = |number: u64, name: &str| Image {
        id: format!("sha256:{}", id(number)),
        parent: None,
        since: now - SignedDuration::from_hours(9),
        tagged: String::new(),
        size: 20 * MB,
        tags: vec![name.to_owned()],
    };
    let mut images: Vec<Image> = (1..=10).map(|number| image(number, "litter:1")).collect();
    images.push(image(1000, "in-use:1"));
    let container = Container {
        id: id(7),
        stopped: false,
        left: None,
        image: format!("sha256:{}", id(1000)),
        since: now - SignedDuration::from_hours(8),
        finished: String::new(),
    };
    Docker {
        answers: Answers::Yes,
        said: String::new(),
        root: Some("/var/lib/docker".to_owned()),
        used: used * 10 * MB,
        available: (100 - used) * 10 * MB,
        holds: BTreeSet::from(["/".to_owned()]),
        building: false,
        containers: vec![container],
        unlisted_containers: 0,
        images,
        unlisted_images: 0,
        configs: Vec::new(),
        apt_cache: 0,
        refused: Default::default(),
    }
}

impl Machine {
    /// A machine, as described or bare.
    pub fn new(number: usize, role: Role, bare: bool, settles: u64, boots_for: u64) -> Self {
        let mut world = World::bare();
        world.now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(crate::tamed::EPOCH);
        world.desired = desired(role);
        world.settles = settles;
        if role == Role::Build {
            world.docker = Some(docker(50, world.now));
        }
        let name = format!("host-{number}");
        let mut machine = Self {
            address: format!("10.0.0.{}", number + 1),
            instance: format!("instance-{number}"),
            name,
            role,
            world,
            power: Power::On,
            started: Duration::ZERO,
            key: 0,
            refuses: false,
            synced: Duration::ZERO,
            well_since: None,
            alive_since: Some(Duration::ZERO),
            boots_for,
        };
        if !bare {
            machine.mend();
        }
        machine.weigh(Duration::ZERO);
        machine
    }

    /// Its time passes up to now.
    pub fn sync(&mut self, now: Duration) {
        let seconds = now.saturating_sub(self.synced).as_secs();
        if seconds == 0 {
            return;
        }
        self.synced += Duration::from_secs(seconds);
        self.world.pass(seconds);
        // Ports open and verdicts get old by the passing of time alone.
        if self.well_since.is_none() || self.world.checker_stopped.is_some() {
            self.weigh(now);
        }
    }

    /// Whether it is as described, in truth: what the facets say of a look that sees everything.
    fn is_as_described(&self) -> bool {
        if self.power != Power::On {
            return false;
        }
        let seen = self.world.observe();
        let desired = &self.world.desired;
        FACETS.iter().filter(|facet| facet.in_use(desired)).all(|facet| {
            facet.check(desired, &seen).is_ok_and(|check| check.drifts.is_empty() && check.progressing.is_empty())
        })
    }

    /// Something changed on it: the truth is worked out again.
    pub fn weigh(&mut self, now: Duration) {
        let well = self.is_as_described();
        self.well_since = well.then(|| self.well_since.unwrap_or(now));
        let alive = self.power == Power::On;
        self.alive_since = alive.then(|| self.alive_since.unwrap_or(now));
    }

    /// A person, or the run before ours, makes it as it is described.
    pub fn mend(&mut self) {
        let world = &mut self.world;
        let settles = std::mem::take(&mut world.settles);
        world.processes.clear();
        world.listeners.clear();
        world.rows.clear();
        world.progressing.clear();
        world.broken.clear();
        (world.deaf, world.checker_stopped, world.checker_wrong) = (false, None, false);
        if world.desired.kubectl_proxy.is_some() {
            let pid = world.spawn("/usr/bin/kubectl proxy --port=8085");
            world.listeners.insert(8085, pid);
        }
        for component in catalogue::described(&world.desired) {
            world.start(&component);
        }
        world.redirects = world.desired.port_redirects.len();
        world.disk = 40;
        if world.docker.is_some() {
            world.docker = Some(docker(50, world.now));
        }
        world.settles = settles;
    }

    /// Something breaks.
    pub fn breaks(&mut self, what: Break) {
        let components = catalogue::described(&self.world.desired);
        let component = |which: u8| components.get(usize::from(which) % components.len().max(1));
        let world = &mut self.world;
        match what {
            Break::Deleted(which) => {
                if let Some(component) = component(which) {
                    component.processes().for_each(|name| world.delete(name));
                }
            }
            Break::Lost(which) => {
                if let Some(component) = component(which) {
                    world.lose(&component.process);
                }
            }
            Break::Stopped(which) => {
                if let Some(component) = component(which) {
                    let pids: Vec<u32> = world
                        .rows
                        .iter()
                        .filter(|row| row.name == component.process)
                        .filter_map(|row| row.pid)
                        .collect();
                    pids.into_iter().for_each(|pid| world.end(pid));
                    for row in world.rows.iter_mut().filter(|row| row.name == component.process) {
                        (row.state, row.pid) = (Pm2::Stopped, None);
                    }
                }
            }
            Break::Doubled(which) => {
                if let Some(child) = component(which).and_then(|component| component.children.first()) {
                    let pid = world.spawn("node child");
                    world.row(&child.process, pid);
                }
            }
            Break::Proxy => {
                if let Some(pid) = world.listeners.get(&8085).copied() {
                    world.end(pid);
                }
            }
            Break::Redirects(count) if !world.desired.port_redirects.is_empty() => world.redirects = usize::from(count),
            Break::Redirects(_) => {}
            Break::Disk(used) => {
                world.disk = used;
                if world.docker.is_some() {
                    world.docker = Some(docker(u64::from(used), world.now));
                }
            }
            Break::Docker => {
                if let Some(docker) = &mut world.docker {
                    docker.answers = Answers::Refuses;
                }
            }
            Break::Checker => world.checker_stopped = Some(world.now.as_second()),
            Break::Unstartable(which) => {
                if let Some(component) = component(which) {
                    component.processes().for_each(|name| world.delete(name));
                    world.broken.push(component.process.clone());
                }
            }
            Break::Deaf => world.deaf = true,
            Break::Taken(which) => {
                if let Some(component) = component(which)
                    && let Some(port) = component.ports.first()
                {
                    component.processes().for_each(|name| world.delete(name));
                    let pid = world.spawn("python3 -m http.server");
                    world.listeners.insert(*port, pid);
                }
            }
        }
    }

    /// A command of ours runs on it. Restarts of the machine are its caller's to see to.
    pub fn apply(&mut self, step: &Step, now: Duration) {
        self.world.apply(step);
        self.weigh(now);
    }

    /// It begins to boot.
    pub fn boots(&mut self, now: Duration) -> Duration {
        let until = now + Duration::from_secs(self.boots_for);
        self.power = Power::Booting { since: now, until };
        self.started = now;
        self.weigh(now);
        until
    }

    /// It has booted: everything of the boot before is gone.
    pub fn booted(&mut self, now: Duration) {
        self.sync(now);
        self.world.restart();
        self.power = Power::On;
        self.weigh(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_mended_is_as_described_whatever_broke() {
        for role in [Role::Web, Role::Services, Role::Build] {
            for what in [
                Break::Deleted(0),
                Break::Lost(1),
                Break::Stopped(2),
                Break::Proxy,
                Break::Redirects(0),
                Break::Disk(95),
                Break::Docker,
                Break::Unstartable(0),
                Break::Taken(1),
            ] {
                let mut machine = Machine::new(0, role, false, 5, 30);
                assert!(machine.well_since.is_some(), "{role:?}");
                machine.breaks(what);
                machine.mend();
                machine.weigh(Duration::from_secs(1));
                assert!(machine.well_since.is_some(), "{role:?} {what:?}");
            }
        }
        assert!(Machine::new(0, Role::Web, true, 5, 30).well_since.is_none());
    }
}
