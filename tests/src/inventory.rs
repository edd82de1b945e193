//! The runbook's machines, as data: names, addresses, zones, what each is for.
//!
//! The one place that lists them. Knows nothing of how a machine is made or run.

use std::net::Ipv4Addr;

/// The cloud project of the runbook, which the stand-in for the cloud answers for.
pub const PROJECT: &str = "binder-testing";

/// The login user of the runbook.
pub const USER: &str = "andrew";

/// Uid and gid of [`USER`] on every lab host. Far from what a Debian machine gives to its first users.
pub const USER_ID: u32 = 2016;

/// What a machine is for. Decides what is installed and configured on it beside the common part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The database and the logging service.
    Services,
    /// The web server, `deploy-kubernetes`, the health checker, the `kubectl proxy`.
    WebDeploy,
    /// The build server and Docker.
    Build,
    /// The cluster in which users' containers run.
    Master,
    /// The machine from which people work.
    Management,
    /// A node of the cluster: an instance in the cloud that nobody logs in to.
    Minion,
}

/// One machine of the runbook.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Its name: hostname, cloud instance and name in the lab.
    pub name: &'static str,
    /// The last part of its address in the lab's network.
    pub octet: u8,
    /// Its zone in the cloud.
    pub zone: &'static str,
    /// What it is for.
    pub role: Role,
    /// A disk of its own, in MiB, which holds everything that the machine writes; none: memory of this computer.
    pub disk: Option<u32>,
    /// How much memory it believes to have, in MiB; none: what this computer has.
    pub memory: Option<u32>,
    /// Whether a lab has it when nothing was said about hosts.
    pub usual: bool,
}

/// Every machine that a lab can have.
pub const MACHINES: &[Machine] = &[
    Machine {
        name: "binder-services",
        octet: 11,
        zone: "us-central1-f",
        role: Role::Services,
        disk: None,
        memory: None,
        usual: true,
    },
    Machine {
        name: "binder-web-deploy",
        octet: 12,
        zone: "us-central1-f",
        role: Role::WebDeploy,
        disk: None,
        memory: None,
        usual: true,
    },
    // As on the real one, Docker, the home directory and everything else share one small disk: this is how a full disk
    // came to empty `.dockercfg`.
    Machine {
        name: "binder-tester-2",
        octet: 13,
        zone: "us-central1-f",
        role: Role::Build,
        disk: Some(400),
        memory: None,
        usual: true,
    },
    Machine {
        name: "kubernetes-master",
        octet: 20,
        zone: "us-central1-b",
        role: Role::Master,
        disk: None,
        memory: Some(1024),
        usual: true,
    },
    Machine {
        name: "binder-api",
        octet: 10,
        zone: "us-central1-a",
        role: Role::Management,
        disk: None,
        memory: None,
        usual: false,
    },
];

/// The cluster's nodes. They come and go with the master, and are in the cloud like every machine; the owner's file of the
/// runbook asks for as many.
pub const NODES: &[Machine] = &[node("kubernetes-minion-1", 23), node("kubernetes-minion-2", 24)];

/// The label that the cluster's nodes carry in the cloud, as key and value.
pub const NODE_LABEL: (&str, &str) = ("cluster", "binder");

const fn node(name: &'static str, octet: u8) -> Machine {
    Machine { name, octet, zone: "us-central1-b", role: Role::Minion, disk: None, memory: None, usual: false }
}

/// Where what surrounds the cluster runs (registering its nodes, its load balancer, the users' proxy): a place with a
/// network of its own, not a machine of anybody's.
pub const MINIONS: &str = "kubernetes-minions";

/// The address, in a lab's network, at which the cluster's minions take users in (`proxy-lookup`).
pub const LOOKUP_OCTET: u8 = 21;

/// The address at which the cluster's minions take route registrations (`proxy-registration`).
pub const REGISTRATION_OCTET: u8 = 22;

/// The machine with a name.
pub fn machine(name: &str) -> Option<&'static Machine> {
    MACHINES.iter().find(|machine| machine.name == name)
}

/// The machine with a role: each role has exactly one.
pub fn with_role(role: Role) -> &'static Machine {
    // A test says that the list is complete; the first entry stands in only to keep this free of panics.
    MACHINES.iter().find(|machine| machine.role == role).unwrap_or(&MACHINES[0])
}

/// A lab's network: one of the 256 `/24` of 198.18.0.0/16, a range that is set aside for benchmarks (RFC 2544) and so
/// collides with nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub u8);

impl Network {
    /// The address of a machine, or of this computer (octet 1).
    pub fn address(self, octet: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.0, octet)
    }

    /// This computer, as the hosts see it.
    pub fn computer(self) -> Ipv4Addr {
        self.address(1)
    }

    /// The bridge that joins the hosts. Its name is also how labs agree on who has which network.
    pub fn bridge(self) -> String {
        format!("binderlab{}", self.0)
    }

    /// The network namespace of a host, as `ip netns` names it.
    pub fn namespace(self, host: &str) -> String {
        format!("binderlab{}-{host}", self.0)
    }

    /// The end of a host's cable on this computer's side. An interface name has room for 15 characters.
    pub fn cable(self, octet: u8) -> String {
        format!("blab{}h{octet}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_its_machine_and_no_address_is_taken_twice() {
        for role in [Role::Services, Role::WebDeploy, Role::Build, Role::Master, Role::Management] {
            assert_eq!(MACHINES.iter().filter(|machine| machine.role == role).count(), 1, "{role:?}");
        }
        let mut octets: Vec<_> = MACHINES.iter().chain(NODES).map(|machine| machine.octet).collect();
        octets.extend([1, LOOKUP_OCTET, REGISTRATION_OCTET]);
        octets.sort_unstable();
        octets.dedup();
        assert_eq!(octets.len(), MACHINES.len() + NODES.len() + 3);
    }

    #[test]
    fn interface_names_fit() {
        assert!(Network(255).bridge().len() <= 15 && Network(255).cable(255).len() <= 15);
    }
}
