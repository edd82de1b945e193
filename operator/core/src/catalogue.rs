//! What runs under pm2 on Binder's machines, as data: process names, ports, children, how each is started, and what must
//! be in place before. An owner's own process is described in the same terms, so that Binder is the first tenant of this
//! table and not a constant of the code.
//!
//! Sources: the public Binder v1 packages and the runbook's order ("Web and deploy server"). Knows no host and no time.

use binder_crds::Desired;
use binder_crds::desired::{self, Server, Service, Stoppable};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The name by which order and conditions speak of the kubectl proxy.
pub const KUBECTL_PROXY: &str = "kubectl-proxy";

/// The name by which order speaks of the cluster's API, on whichever host it is served.
pub const KUBERNETES_API: &str = "kubernetes-api";

/// Where a database is, seen from the host that it runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Its port on the host's loopback.
    pub port: u16,
    /// Its name.
    pub name: String,
}

impl Place {
    /// What the owner described.
    pub fn of(described: &binder_crds::desired::Database) -> Self {
        Self { port: described.port, name: described.name.0.clone() }
    }
}

/// Something that pm2 runs, together with what it starts itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// The name that the spec uses and that people say: `web`, `db`, or the pm2 name of an owner's own process.
    pub name: String,
    /// The name in pm2's table.
    pub process: String,
    /// TCP ports that it listens on once it has settled, unless its settings on the host say another one.
    pub ports: Vec<u16>,
    /// Where its file in `~/.binder` on the host ([`Component::settings_file`]) keeps its port, as a path of keys; empty: nowhere.
    pub port_setting: &'static [&'static str],
    /// Whether it may be a container, whose port is held by Docker's `docker-proxy` and not by a process of its own.
    pub in_docker: bool,
    /// Processes that it starts under pm2 itself and that go when it goes.
    pub children: Vec<Child>,
    /// How it is started.
    pub start: Start,
    /// Names of components of the same host (or [`KUBECTL_PROXY`]) that must be in place before it is started.
    pub after: Vec<String>,
    /// Names of components anywhere in the fleet without which it would only crash and restart.
    pub needs: Vec<&'static str>,
    /// A part of its command line that no other program has: what proves that a process which pm2 has lost is ours.
    pub signature: Option<&'static str>,
    /// How long it may take from its start until its ports answer.
    pub startup_timeout: Duration,
    /// Its place in the runbook's order; lower is earlier.
    pub rank: u8,
}

/// A process that a component starts itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The name in pm2's table.
    pub process: String,
    /// Whether the component is broken without it.
    pub required: bool,
}

/// How a component is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "by")]
pub enum Start {
    /// `binder-control NAME start`, with the API key in the environment and never in an argument.
    #[serde(rename_all = "camelCase")]
    Server {
        /// The name that `binder-control` knows.
        name: String,
    },
    /// `binder-control start-service NAME`, whose exit code is 1 on success.
    #[serde(rename_all = "camelCase")]
    Service {
        /// The name that `binder-control` knows.
        name: String,
    },
    /// The owner's own command.
    #[serde(rename_all = "camelCase")]
    Command {
        /// Program and arguments, without a shell.
        argv: Vec<String>,
    },
}

impl Component {
    /// The name of its file `~/.binder/NAME.conf` on the host, as the package itself reads it (`lib/settings.js`).
    pub fn settings_file(&self) -> &str {
        match self.name.as_str() {
            "deploy-kubernetes" => "deploy",
            name => name,
        }
    }

    /// Every name under which pm2 may know a part of it, its own first.
    pub fn processes(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.process.as_str()).chain(self.children.iter().map(|child| child.process.as_str()))
    }
}

/// The components that a description wants running, in the runbook's order.
pub fn described(desired: &Desired) -> Vec<Component> {
    let mut components: Vec<Component> = Vec::new();
    components.extend(desired.services.iter().map(|service| self::service(*service)));
    components.extend(desired.servers.iter().map(|server| self::server(*server)));
    components.extend(desired.processes.iter().map(|process| {
        Component {
            name: process.name.0.clone(),
            process: process.name.0.clone(),
            ports: process.ports.clone(),
            port_setting: &[],
            in_docker: false,
            children: process.children.iter().map(|name| Child { process: name.0.clone(), required: true }).collect(),
            start: Start::Command { argv: process.start.clone() },
            after: process.after.iter().map(|name| name.0.clone()).collect(),
            needs: Vec::new(),
            signature: None,
            startup_timeout: process
                .startup_timeout
                .as_ref()
                .and_then(|startup_timeout| startup_timeout.duration().ok())
                .unwrap_or(Duration::from_secs(60)),
            rank: 60,
        }
    }));
    let stopped = stopped(desired);
    components.retain(|component| !stopped.iter().any(|stopped| stopped.name == component.name));
    components.sort_by(|a, b| a.rank.cmp(&b.rank).then_with(|| a.name.cmp(&b.name)));
    components
}

/// The build and template that every Binder has: what the health checker deploys every 40 s (`scripts/checker.js`).
pub const EXAMPLE: &str = "binder-project-example-requirements";

/// A question to a server that it answers only to its API key, that changes nothing and costs next to nothing. On which port
/// the server is asked, its settings on the host say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRoute {
    /// The parts of the path.
    pub path: &'static [&'static str],
    /// Whether the path ends with a slash.
    pub slash: bool,
}

/// How to find out whether a server takes an API key (`binder-protocol`, what is `authorized`). The web server keeps its key
/// to itself: it only uses it.
pub fn key_route(server: Server) -> Option<KeyRoute> {
    match server {
        Server::Web => None,
        Server::Build => Some(KeyRoute { path: &["templates", EXAMPLE], slash: false }),
        Server::DeployKubernetes => Some(KeyRoute { path: &["applications", EXAMPLE], slash: false }),
        Server::Health => Some(KeyRoute { path: &["health"], slash: true }),
    }
}

/// The ports by which other machines know a service, by its name.
pub fn ports_of(name: &str) -> Vec<u16> {
    match name {
        "db" => service(Service::Db).ports,
        // Its port is 8050 or 9100, as its configuration says.
        "logging" => vec![8050, 9100],
        _ => Vec::new(),
    }
}

/// The components that a description wants stopped, which win over what it wants running: a profile may say the latter.
pub fn stopped(desired: &Desired) -> Vec<Component> {
    let component = |name: &Stoppable| match name.component() {
        desired::Component::Server(server) => self::server(server),
        desired::Component::Service(service) => self::service(service),
    };
    desired.stopped.iter().map(component).collect()
}

/// The npm modules that Binder's servers are, by the server that runs it (the published packages of Binder v1).
const MODULES: &[(&str, Server)] = &[
    ("binder-web", Server::Web),
    ("binder-build", Server::Build),
    ("binder-deploy-kubernetes", Server::DeployKubernetes),
    ("binder-health-checker", Server::Health),
];

/// Brings all of Binder's servers along (runbook, "Updating").
const BINDER_CONTROL: &str = "binder-control";

/// The described components that use an npm module, in the runbook's order: those that the owner names, else those that are
/// known to.
pub fn users(desired: &Desired, module: &desired::Module) -> Vec<Component> {
    let known = |component: &Component| match &component.start {
        Start::Server { name } => {
            module.name.0 == BINDER_CONTROL
                || MODULES.iter().any(|(known, server)| *known == module.name.0 && self::server(*server).name == *name)
        }
        Start::Service { .. } | Start::Command { .. } => false,
    };
    let named = |component: &Component| {
        module.used_by.iter().any(|name| name.0 == component.name || name.0 == component.process)
    };
    let uses = |component: &Component| if module.used_by.is_empty() { known(component) } else { named(component) };
    described(desired).into_iter().filter(uses).collect()
}

/// One of Binder's servers.
pub fn server(server: Server) -> Component {
    let plain = |name: &str, process: &str, port: u16, signature: &'static str, rank: u8| Component {
        name: name.to_owned(),
        process: process.to_owned(),
        ports: vec![port],
        port_setting: &["port"],
        in_docker: false,
        children: Vec::new(),
        start: Start::Server { name: name.to_owned() },
        after: Vec::new(),
        needs: vec!["db", "logging"],
        signature: Some(signature),
        startup_timeout: Duration::from_secs(60),
        rank,
    };
    match server {
        Server::Web => plain("web", "binder-web-start", 3000, "binder-web/server/cli", 20),
        Server::Build => plain("build", "binder-build-start", 8082, "binder-build/lib/cli", 30),
        Server::DeployKubernetes => Component {
            children: vec![
                // With a kubectl proxy started by hand it cannot bind 8085 and ends as errored: no fault by itself.
                Child { process: "binder-kubernetes-proxy".to_owned(), required: false },
                Child { process: "binder-kubernetes-daemon".to_owned(), required: true },
            ],
            after: vec![KUBECTL_PROXY.to_owned()],
            // It looks for its pod and services every 20 s, 20 times, before it gives up for good.
            startup_timeout: Duration::from_secs(420),
            ..plain("deploy-kubernetes", "binder-deploy-kubernetes-start", 8084, "binder-deploy-kubernetes/lib/cli", 40)
        },
        Server::Health => Component {
            children: vec![Child { process: "binder-health-checker".to_owned(), required: true }],
            after: vec!["deploy-kubernetes".to_owned()],
            ..plain("health", "binder-health-checker-start", 8086, "binder-health-checker/lib/cli", 50)
        },
    }
}

/// One of Binder's services, by either of its names.
pub fn service(service: Service) -> Component {
    let plain = |name: &str, process: &str, ports: Vec<u16>, port_setting, rank: u8| Component {
        name: name.to_owned(),
        process: process.to_owned(),
        ports,
        port_setting,
        in_docker: true,
        children: Vec::new(),
        start: Start::Service { name: name.to_owned() },
        after: Vec::new(),
        needs: Vec::new(),
        signature: None,
        startup_timeout: Duration::from_secs(60),
        rank,
    };
    match service {
        Service::Db | Service::BinderDbService => plain("db", "binder-db-service", vec![9050], &["port"], 0),
        // Its port is 8050 or 9100, as its configuration says; where that is missing, it is judged without one.
        Service::Logging | Service::BinderLoggingService => {
            plain("logging", "binder-logging-service", Vec::new(), &["logstash", "port"], 10)
        }
    }
}

/// Why a process ends again and again, where its last error tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It cannot reach its database.
    Database,
    /// It cannot reach the log collector.
    Logging,
    /// Its port is taken.
    PortTaken,
    /// The bug of kube-stream: an error of its connection to the cluster that nobody handles. Starting the component and
    /// its children again is all that helps.
    KubeStream,
    /// Its memory is used up: nothing else of its log tells why it ended.
    OutOfMemory,
}

/// What a known crash looks like in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What it means.
    pub cause: Cause,
    /// The component that it must be of; empty: any.
    pub component: &'static str,
    /// A module that must be in the stack; empty: any.
    pub module: &'static str,
    /// Parts of the error's line of which one must be there; empty: any line will do.
    pub any_of: &'static [&'static str],
}

/// What a signature leaves open.
const ANY: Signature = Signature { cause: Cause::KubeStream, component: "", module: "", any_of: &[] };

/// Crashes that are known, the more telling first.
///
/// kube-stream 1.0.4, `index.js`, tried out with Node.js 20: `_processResponse` pipes the request through six streams, and
/// its callers handle errors of the last one only. A connection to 8085 that is refused (`ECONNREFUSED`), reset or broken off
/// in the middle of an answer (`aborted`), or an answer that is no JSON (`Invalid JSON`, as a kubectl proxy gives when the API
/// is away), is then an `error` event without a listener, which ends the process. And `create`, `patch` and `delete` call back
/// for each further piece of data, which async 1.5 answers with `Callback was already called`. Under pm2 the log has the error's
/// own stack only, which does not lead back to kube-stream: there the component tells, whose only such client it is.
pub const CRASHES: &[Signature] = &[
    Signature { cause: Cause::OutOfMemory, any_of: &["out of memory"], ..ANY },
    Signature { cause: Cause::PortTaken, any_of: &["EADDRINUSE"], ..ANY },
    Signature { cause: Cause::Logging, module: "winston-logstash", ..ANY },
    Signature { cause: Cause::Database, any_of: &["MongoError", "MongoNetworkError", "MongoTimeoutError"], ..ANY },
    Signature {
        cause: Cause::Database,
        module: "mongodb",
        any_of: &["ECONNREFUSED", "failed to connect", "ETIMEDOUT"],
        ..ANY
    },
    Signature { cause: Cause::Database, module: "mongoose", ..ANY },
    Signature { cause: Cause::KubeStream, module: "kube-stream", ..ANY },
    Signature {
        cause: Cause::KubeStream,
        component: "deploy-kubernetes",
        any_of: &[
            "connect ECONNREFUSED 127.0.0.1:",
            "connect ECONNREFUSED ::1:",
            "read ECONNRESET",
            "Error: aborted",
            "socket hang up",
            "Invalid JSON (",
        ],
        ..ANY
    },
];

/// The known cause of an error of a component, by its line and the modules of its stack.
pub fn cause(component: &str, line: &str, modules: &[String]) -> Option<Cause> {
    CRASHES
        .iter()
        .find(|known| {
            let fits = |wanted: &str, found: bool| wanted.is_empty() || found;
            fits(known.component, component == known.component)
                && fits(known.module, modules.iter().any(|module| module == known.module))
                && (known.any_of.is_empty() || known.any_of.iter().any(|part| line.contains(part)))
        })
        .map(|known| known.cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_runbooks() {
        let desired = Desired {
            servers: vec![Server::Health, Server::DeployKubernetes, Server::Web, Server::Build],
            services: vec![Service::Logging, Service::BinderDbService],
            ..Desired::default()
        };
        let names: Vec<String> = described(&desired).into_iter().map(|component| component.name).collect();
        assert_eq!(names, ["db", "logging", "web", "build", "deploy-kubernetes", "health"]);
    }

    #[test]
    fn a_known_crash_is_told_from_any_other() {
        let modules = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let deploy = "deploy-kubernetes";
        for (component, line, stack, cause) in [
            (deploy, "Error: connect ECONNREFUSED 127.0.0.1:8085", &[][..], Some(Cause::KubeStream)),
            (deploy, "Error: read ECONNRESET", &[], Some(Cause::KubeStream)),
            (deploy, "Error: Invalid JSON (Unexpected \"o\")", &["jsonparse"], Some(Cause::KubeStream)),
            (deploy, "Error: Callback was already called.", &["async", "kube-stream"], Some(Cause::KubeStream)),
            (deploy, "Error: Callback was already called.", &["async"], None),
            (deploy, "Error: connect ECONNREFUSED 198.18.0.11:9050", &["mongodb"], Some(Cause::Database)),
            (deploy, "Error: Max retries reached, OFFLINE", &["winston-logstash"], Some(Cause::Logging)),
            ("web", "Error: read ECONNRESET", &[], None),
            ("web", "Error: connect ECONNREFUSED 127.0.0.1:8085", &["request"], None),
            ("web", "Error: listen EADDRINUSE: address already in use :::3000", &["express"], Some(Cause::PortTaken)),
            ("web", "MongoError: failed to connect to server", &[], Some(Cause::Database)),
            ("web", "TypeError: x is not a function", &["binder-web"], None),
            (
                deploy,
                "FATAL ERROR: CALL_AND_RETRY_LAST Allocation failed - process out of memory",
                &[],
                Some(Cause::OutOfMemory),
            ),
            (
                deploy,
                "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
                &["kube-stream"],
                Some(Cause::OutOfMemory),
            ),
            (
                "web",
                "Error: Max retries reached, OFFLINE",
                &["winston-logstash", "binder-control"],
                Some(Cause::Logging),
            ),
            (
                deploy,
                "Error: Callback was already called.",
                &["async", "kube-stream", "binder-control"],
                Some(Cause::KubeStream),
            ),
        ] {
            assert_eq!(super::cause(component, line, &modules(stack)), cause, "{component}: {line}");
        }
        // One that fits everything would explain everything.
        assert!(CRASHES.iter().all(|known| !(known.module.is_empty() && known.any_of.is_empty())));
    }
}
