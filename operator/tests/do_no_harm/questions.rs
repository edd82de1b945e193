//! What is asked of a host otherwise than by the probe, and of others about it: healthy answers, and each way in which none
//! or a wrong one comes.

use crate::operator::{CLUSTER, fleet, reach};
use binder_core::plan::memory::FleetView;
use binder_core::plan::outage::{CloudSays, Outage};
use binder_core::plan::witness::{Carrier, Heard, Over, Testimony, Witness};
use binder_core::plan::{FailureKind, LookFailure, Looked};
use binder_core::seen::backups::{Backups, Good};
use binder_core::seen::database::{Build, Database, Name, Names};
use binder_core::seen::kubernetes::{
    Answers, Api, Identified, Namespaces, Nodes, Proxied, namespace_names, namespaces, nodes,
};
use binder_core::seen::proxy::{self, Cluster};
use binder_core::seen::reach::{Reached, Reaches, subject};
use binder_core::seen::routes::{Routes, routes};
use binder_core::seen::servers::{Health, JUDGED, Key, Servers, Verdict, health};
use binder_core::seen::{Fact, Observation, Reason, Unknown};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Answers to all questions of one look.
#[derive(Clone)]
pub(crate) struct Questions {
    pub(crate) cluster: Cluster,
    pub(crate) servers: Fact<Servers>,
    pub(crate) kubernetes: Fact<Api>,
    pub(crate) routes: Fact<Routes>,
    pub(crate) reaches: Fact<Reaches>,
    pub(crate) database: Fact<Database>,
    pub(crate) backups: Fact<Backups>,
}

const APP: &str = "0123456789abcdef0123456789abcdef";

impl Questions {
    /// As a healthy fleet answers.
    pub(crate) fn well(now: Timestamp) -> Self {
        let running = |name: &str| Build {
            name: Name::of(name),
            started: Some(now - SignedDuration::from_mins(10)),
            repository: Some(format!("https://github.com/{}", name.replace('-', "/"))),
            marked: false,
        };
        let verdict = Verdict { running: true, at: now.as_second() - 20 };
        let keys = ["build", "deploy-kubernetes", "health"].map(|name| (name.to_owned(), Key::Accepted));
        Self {
            cluster: Cluster::Identity(CLUSTER.to_owned()),
            servers: Fact::Seen(Servers {
                keys: BTreeMap::from(keys),
                health: Some(Ok(Health {
                    verdicts: JUDGED.iter().map(|name| ((*name).to_owned(), verdict)).collect(),
                })),
                works: BTreeSet::from(["deploy".to_owned(), "build".to_owned()]),
            }),
            kubernetes: Fact::Seen(Api {
                own_port: 6443,
                own: Answers::Well(Duration::from_millis(20)),
                proxied: Ok(Proxied {
                    via: "web".to_owned(),
                    answer: Answers::Well(Duration::from_millis(20)),
                    cluster: Identified::Told,
                }),
                nodes: Ok(Nodes { ready: 2, ..Nodes::default() }),
                namespaces: Some(Namespaces { active: 1, ..Namespaces::default() }),
            }),
            routes: Fact::Seen(Routes { live: 1, ..Routes::default() }),
            reaches: Fact::Seen(Reaches::from([(subject(&reach()), Reached::Open)])),
            database: Fact::Seen(Database {
                builds: 3,
                templates: 3,
                apps: 1,
                running: vec![running("org-repo")],
                names: Some(Names::default()),
                ..Database::default()
            }),
            backups: Fact::Seen(Backups {
                last: Some(Good {
                    name: "backup".to_owned(),
                    at: now - SignedDuration::from_mins(30),
                    documents: 7,
                    bytes: 7000,
                }),
                count: 1,
                unusable: None,
            }),
        }
    }

    /// Puts the answers, as they are after a while, into what the probe saw. The host's clock goes on.
    pub(crate) fn into(self, mut seen: Observation, after: SignedDuration) -> Observation {
        let seconds = after.as_secs();
        if let Fact::Seen(machine) = &mut seen.machine {
            machine.clock += seconds;
            machine.uptime = machine.uptime.saturating_add_signed(seconds);
        }
        seen.servers = self.servers;
        if let Fact::Seen(Servers { health: Some(Ok(health)), .. }) = &mut seen.servers {
            health.verdicts.values_mut().for_each(|verdict| verdict.at += seconds);
        }
        seen.kubernetes = self.kubernetes;
        seen.routes = self.routes;
        seen.reaches = self.reaches;
        seen.database = self.database;
        seen.backups = self.backups;
        seen
    }
}

/// A question that fails, by name.
pub(crate) type Failing = (String, Questions);

/// How a question over HTTP ends without an answer, in the words of the transport.
const SILENT: &[&str] = &[
    "nobody listens there",
    "no answer within 8 s",
    "the connection was closed",
    "it does not speak HTTP",
    "the answer is larger than 4 MiB",
    "the machine forbids tunnels",
];

/// Statuses that speak of who asks, of the way, or of trouble.
const STATUSES: &[u16] = &[301, 400, 401, 403, 404, 429, 500, 502, 503, 504];

/// Bodies that are no answer.
const BODIES: &[(&str, &[u8])] = &[
    ("nothing", b""),
    ("half of it", br#"[{"name":"deploy","status":"running","timest"#),
    ("a page", b"<html><body>502 Bad Gateway</body></html>"),
    ("bytes", b"\x00\x01\xff\xfe\xc3\x28"),
    ("null", b"null"),
    ("an empty object", b"{}"),
    ("an empty list", b"[]"),
    ("another kind", br#"{"kind":"Status","status":"Failure","code":403,"metadata":{}}"#),
    ("an odd row", br#"[{"name":7,"status":[],"timestamp":"gestern"}]"#),
    ("an empty list of nodes", br#"{"kind":"NodeList","apiVersion":"v1","metadata":{},"items":[]}"#),
    ("an empty list of namespaces", br#"{"kind":"NamespaceList","apiVersion":"v1","metadata":{},"items":[]}"#),
    ("a part of a list", br#"{"kind":"NodeList","metadata":{"continue":"x"},"items":[{"metadata":{"name":"a"}}]}"#),
];

fn blind<T>(message: &str) -> Fact<T> {
    Fact::Unknown(Unknown { reason: Reason::NotAnswered, message: message.to_owned() })
}

/// Every question in each way to fail.
pub(crate) fn failing(now: Timestamp) -> Vec<Failing> {
    let well = Questions::well(now);
    let mut all: Vec<Failing> = Vec::new();
    let mut add = |name: String, questions: Questions| all.push((name, questions));

    for why in SILENT {
        for server in ["build", "deploy-kubernetes", "health"] {
            let mut questions = well.clone();
            if let Fact::Seen(servers) = &mut questions.servers {
                servers.keys.insert(server.to_owned(), Key::Silent((*why).to_owned()));
                servers.works.remove(if server == "build" { "build" } else { "deploy" });
                if server == "health" {
                    servers.health = Some(Err((*why).to_owned()));
                }
            }
            add(format!("{server}: {why}"), questions);
        }
        add(
            format!("the kubectl proxy: {why}"),
            Questions { cluster: Cluster::NoAnswer((*why).to_owned()), ..well.clone() },
        );
        add(format!("the proxy's routes: {why}"), Questions { routes: blind(why), ..well.clone() });
        add(format!("the database: {why}"), Questions { database: blind(why), ..well.clone() });
    }
    for status in STATUSES {
        let mut questions = well.clone();
        if let Fact::Seen(servers) = &mut questions.servers {
            servers.health = Some(Err(format!("it answers with HTTP {status}")));
            servers.works.clear();
        }
        add(format!("/health/: HTTP {status}"), questions);
        add(
            format!("the kubectl proxy: HTTP {status}"),
            Questions { cluster: Cluster::Status(*status), ..well.clone() },
        );
    }
    for (name, body) in BODIES {
        let mut questions = well.clone();
        if let Fact::Seen(servers) = &mut questions.servers {
            // An answer without verdicts is one: that of a checker that has not been round. It is stale, not wrong.
            if *body != b"[]" {
                servers.health = Some(health(body));
            }
        }
        add(format!("/health/: {name}"), questions);
        let cluster = match proxy::identity(body) {
            Some(identity) => Cluster::Identity(identity),
            None => Cluster::NoAnswer("it says nothing that a Kubernetes API says".to_owned()),
        };
        add(format!("the cluster's identity: {name}"), Questions { cluster, ..well.clone() });
        let names = BTreeSet::from(["default".to_owned(), "kube-system".to_owned(), APP.to_owned()]);
        let table = routes(body, &names).map_or_else(|why| blind(&why), Fact::Seen);
        add(format!("the table of routes: {name}"), Questions { routes: table, ..well.clone() });
        let table = format!("{{\"/user/{APP}\": {{\"target\": \"http://198.19.0.1:8888\"}}}}");
        let known = namespace_names(body).and_then(|names| routes(table.as_bytes(), &names));
        let known = known.map_or_else(|why| blind(&why), Fact::Seen);
        add(format!("the namespaces: {name}"), Questions { routes: known, ..well.clone() });
        let mut questions = well.clone();
        if let Fact::Seen(api) = &mut questions.kubernetes {
            api.namespaces = namespaces(body);
            api.nodes = nodes(body);
        }
        add(format!("the nodes: {name}"), questions);
    }
    // One of the two ways fails, or both say what speaks of the asker; an answer of another cluster is none.
    let well_said = Answers::Well(Duration::from_millis(20));
    let mut ill: Vec<Answers> = STATUSES.iter().map(|status| Answers::Status(*status)).collect();
    ill.extend([Answers::Silent, Answers::Closed, Answers::Unclear("it does not speak HTTP".to_owned())]);
    for answer in ill {
        let of_asker = !matches!(answer, Answers::Silent | Answers::Status(500 | 503 | 504));
        let ways = [
            ("on its own loopback", answer.clone(), well_said.clone(), Identified::Told),
            ("asked through a proxy", well_said.clone(), answer.clone(), Identified::Told),
            ("both ways, of another cluster", answer.clone(), answer.clone(), Identified::Another("other".to_owned())),
            ("both ways, of a cluster that nobody names", answer.clone(), answer.clone(), Identified::Unnamed),
            ("both ways", answer.clone(), answer.clone(), Identified::Told),
        ];
        for (way, own, proxied, cluster) in ways.into_iter().take(if of_asker { 5 } else { 4 }) {
            let mut questions = well.clone();
            if let Fact::Seen(api) = &mut questions.kubernetes {
                api.own = own;
                api.proxied = Ok(Proxied { via: "web".to_owned(), answer: proxied, cluster });
            }
            add(format!("the Kubernetes API, {way}: {answer:?}"), questions);
        }
    }
    add(
        "the Kubernetes API: nobody to ask through".to_owned(),
        Questions { kubernetes: blind("no proxy"), ..well.clone() },
    );
    for reached in [
        Reached::Refused,
        Reached::NoAnswer,
        Reached::NoRoute,
        Reached::NameNotFound,
        Reached::NoSuchHost,
        Reached::Unknown("the machine forbids tunnels".to_owned()),
    ] {
        let reaches = Reaches::from([(subject(&reach()), reached.clone())]);
        add(format!("another machine's port: {reached:?}"), Questions { reaches: Fact::Seen(reaches), ..well.clone() });
    }
    for problem in ["the key is missing", "the Secret cannot be read"] {
        let message = format!("the servers cannot be asked without {problem}");
        let servers = Fact::Unknown(Unknown { reason: Reason::KeyUnknown, message });
        add(format!("the API key: {problem}"), Questions { servers, ..well.clone() });
    }
    for (name, change) in [
        ("no time of start", (|build: &mut Build| build.started = None) as fn(&mut Build)),
        ("a name that is none", |build| build.name = Name::of("$(reboot)\u{1b}[31m")),
        ("a start in the future", |build| build.started = build.started.map(|at| at + SignedDuration::from_hours(48))),
    ] {
        let mut questions = well.clone();
        if let Fact::Seen(database) = &mut questions.database {
            database.running.iter_mut().for_each(change);
        }
        add(format!("the database: a build with {name}"), questions);
    }
    let empty =
        Database { names: Some(Names { cut: true, ..Names::default() }), more_running: true, ..Database::default() };
    add("the database: cut short".to_owned(), Questions { database: Fact::Seen(empty), ..well.clone() });
    add(
        "the backups: not listed".to_owned(),
        Questions { backups: blind("the bucket does not answer"), ..well.clone() },
    );
    let unusable = Backups { unusable: Some("there is no such bucket".to_owned()), ..Backups::default() };
    add("the backups: no place".to_owned(), Questions { backups: Fact::Seen(unusable), ..well.clone() });
    all
}

/// Looks that fail altogether, with what others say of the host meanwhile, by name.
pub(crate) fn outages() -> Vec<(String, LookFailure, FleetView)> {
    let mut all = Vec::new();
    let failure =
        |reason, kind| LookFailure { reason, message: format!("192.0.2.1:22: {reason}"), kind, not_before: None };
    let refused = || FailureKind::Refused { public_key: "ssh-ed25519 AAAA".to_owned() };
    let clouds = || {
        [
            CloudSays::NotAsked,
            CloudSays::Running,
            CloudSays::Off,
            CloudSays::Changing("STOPPING".to_owned()),
            CloudSays::Unanswered("403: not allowed".to_owned()),
            CloudSays::Unanswered("the clock is wrong".to_owned()),
        ]
    };
    let one = |host: &str, before, after, greeted, heard: Heard| Witness {
        host: host.to_owned(),
        domain: None,
        before,
        after,
        greeted,
        heard: vec![
            Testimony { over: Over::Ssh, port: 22, heard: heard.clone() },
            Testimony { over: Over::Http, port: 3000, heard },
        ],
    };
    let (alive, unproven) = (|| Carrier::Alive, || Carrier::Unproven);
    let testimony = [
        ("nobody to ask", vec![]),
        ("a witness that was never greeted", vec![one("build", alive(), alive(), false, Heard::TimedOut)]),
        ("a witness that hangs itself", vec![one("build", alive(), unproven(), true, Heard::TimedOut)]),
        ("a witness that did before", vec![one("build", unproven(), alive(), true, Heard::TimedOut)]),
        ("a witness that is refused", vec![one("build", alive(), alive(), true, Heard::Refused)]),
        ("a witness that hears it", vec![one("build", alive(), alive(), true, Heard::Spoke)]),
        ("a witness without a route", vec![one("build", alive(), alive(), true, Heard::NoRoute)]),
        ("a witness that knows no such name", vec![one("build", alive(), alive(), true, Heard::NameNotFound)]),
        (
            "a witness that may not ask",
            vec![one("build", alive(), alive(), true, Heard::Unknown("forbidden".to_owned()))],
        ),
        (
            "two that disagree",
            vec![
                one("build", alive(), alive(), true, Heard::Spoke),
                one("db", alive(), alive(), true, Heard::TimedOut),
            ],
        ),
    ];
    for (reason, kind) in [
        ("Unreachable", FailureKind::Silent),
        ("Hung", FailureKind::Silent),
        ("ConnectionLost", FailureKind::Silent),
        ("NoAnswer", FailureKind::Silent),
        ("ConnectionClosed", FailureKind::Passing),
        ("LookRefused", FailureKind::Passing),
        ("NotSsh", FailureKind::Person),
        ("HostKeyMismatch", FailureKind::Person),
        ("SecretMissing", FailureKind::Person),
        ("NoShell", FailureKind::Person),
        ("LoginRefused", refused()),
    ] {
        for cloud in clouds() {
            for (words, witnesses) in &testimony {
                let outage = Outage { witnesses: witnesses.clone(), cloud: cloud.clone(), ..Outage::default() };
                let name = format!("{reason}, {words}, the cloud says {cloud:?}");
                all.push((name, failure(reason, kind.clone()), FleetView { outage, ..fleet() }));
            }
            if kind != FailureKind::Silent {
                break;
            }
        }
    }
    all
}

/// A look that failed.
pub(crate) fn failed(failure: &LookFailure) -> Looked {
    Looked::Failed(failure.clone())
}
