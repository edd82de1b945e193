//! The operator's side: the description of a healthy fleet's host, and ten looks at it, decided on as the controller does.

use binder_core::plan::evidence::Demanded;
use binder_core::plan::memory::{BuildServer, FleetView, History, RetryPolicy};
use binder_core::plan::{Host, Looked, Next, decide};
use binder_core::seen::history::EarlierLooks;
use binder_crds::desired::{
    BackupPlace, Backups, Database, Disk, Docker, HungBuilds, KubectlProxy, KubernetesApi, Module, Names, PortRedirect,
    Process, Reach, Reclaim, Server, Service, Stoppable,
};
use binder_crds::text::{
    Address, ClusterId, DatabaseName, FolderName, HostPath, InterfaceName, ModuleName, ModuleVersion, Percent,
    ProcessName, Schedule, Span,
};
use binder_crds::{BinderHostSpec, BinderHostStatus, Desired, Mode};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// The cluster behind the proxy, and the one that the host serves.
pub(crate) const CLUSTER: &str = "1b671a64-40d5-491e-99b0-da01ff1f3341";

/// Once in four years: no task is due while the test runs.
const SELDOM: &str = "0 4 29 2 *";

/// Every facet has something to do with this host.
pub(crate) fn desired(home: &str) -> Desired {
    Desired {
        servers: vec![Server::Web, Server::Build, Server::DeployKubernetes, Server::Health],
        services: vec![Service::Db],
        stopped: vec![Stoppable::Logging],
        processes: vec![Process {
            name: ProcessName::from("echo"),
            start: ["pm2", "start", "/srv/echo.js", "--name", "echo"].map(str::to_owned).to_vec(),
            ports: vec![4000],
            ..Process::default()
        }],
        kubectl_proxy: Some(KubectlProxy {
            port: 8085,
            kubectl: HostPath(format!("{home}/kubernetes/cluster/kubectl.sh")),
            cluster_id: Some(ClusterId::from(CLUSTER)),
        }),
        port_redirects: vec![PortRedirect { interface: InterfaceName::from("eth0"), from: 80, to: 3000 }],
        disks: vec![Disk { path: HostPath::from("/"), max_used: Percent::from("85%") }],
        docker: Some(Docker {
            reclaim: Some(Reclaim {
                schedule: Some(Schedule::from(SELDOM)),
                unused_for: Span::from("1h"),
                ..Reclaim::default()
            }),
        }),
        database: Some(Database {
            port: 9050,
            name: DatabaseName::from("binder"),
            backups: Some(Backups {
                schedule: Schedule::from(SELDOM),
                to: BackupPlace { directory: Some(FolderName::from("binder")), bucket: None },
                keep: 7,
                fresh_for: Span::from("1h"),
                ..Backups::default()
            }),
            hung_builds: Some(HungBuilds { after: Span::from("3h"), rebuild: true }),
            names: Some(Names { fail_unusable: true }),
        }),
        kubernetes_api: Some(KubernetesApi { ready_nodes: 2, may_restart_nodes: true, ..KubernetesApi::default() }),
        modules: vec![Module {
            name: ModuleName::from("binder-web"),
            version: ModuleVersion::from("1.1.17"),
            ..Module::default()
        }],
        reaches: vec![reach()],
    }
}

/// Another machine's port that the host must reach.
pub(crate) fn reach() -> Reach {
    Reach { host: None, address: Some(Address::from("192.0.2.7")), port: 9100 }
}

/// The host's object, with what its fleet says.
pub(crate) fn spec(desired: Desired) -> BinderHostSpec {
    let value = serde_json::json!({
        "address": "192.0.2.1",
        "port": 22,
        "hostKeys": [],
        "access": {"user": "andrew", "keySecretRef": {"name": "binder-ssh"}, "sshKeySecretRef": {"name": "binder-ssh"}},
        "power": {"gce": {"project": "binder", "zone": "us-central1-f", "instance": "web", "credentialsSecretRef": {"name": "gce"}}},
    });
    let mut spec: BinderHostSpec = serde_json::from_value(value).unwrap();
    spec.desired = desired;
    spec
}

/// A healthy fleet, in a hurry: what waits, waits for seconds.
pub(crate) fn fleet() -> FleetView {
    let patience = RetryPolicy { unreachable_timeout: Duration::from_secs(60), ..RetryPolicy::default() };
    let build_server = BuildServer {
        host: "build".to_owned(),
        uid: "uid-2".to_owned(),
        port: Some(8082),
        closed: None,
        clock_off: false,
    };
    FleetView { fleet: Some("binder".to_owned()), patience, build_server: Some(build_server), ..FleetView::default() }
}

/// What ten looks lead to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Every step that was decided on, with why.
    pub(crate) steps: Vec<String>,
    /// Whether the host is healthy in the end.
    pub(crate) healthy: bool,
    /// The reason and the message of the condition that tells.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The operator, with what it carries from one look to the next.
pub(crate) struct Operator<'a> {
    spec: &'a BinderHostSpec,
    status: BinderHostStatus,
    history: EarlierLooks,
    demanded: Demanded,
    /// Every step that was decided on.
    pub(crate) steps: Vec<String>,
}

impl<'a> Operator<'a> {
    /// It has just been started.
    pub(crate) fn new(spec: &'a BinderHostSpec) -> Self {
        Self {
            spec,
            status: BinderHostStatus::default(),
            history: EarlierLooks::default(),
            demanded: Demanded::default(),
            steps: Vec::new(),
        }
    }

    /// One look; gives when the operator would look again.
    pub(crate) fn look(&mut self, mut looked: Looked, fleet: &FleetView, now: Timestamp) -> Duration {
        if let Looked::Seen(seen) = &mut looked {
            self.history.take_in(seen);
        }
        let host = Host {
            name: "web",
            uid: "uid-1",
            generation: 1,
            spec: self.spec,
            mode: Mode::Enforce,
            suspended: None,
            previous: &self.status,
            demanded: &self.demanded,
        };
        let decision = decide(&host, &looked, &History::default(), fleet, now);
        if let Next::Run(run) = &decision.next {
            self.steps.push(format!("{}: {} ({})", run.step.kind(), run.step.words(), run.drift.evidence));
        }
        // As the API gives it back.
        self.status = serde_json::from_value(
            serde_json::to_value(binder_core::status::of(&host, &looked, &decision, fleet, now)).unwrap(),
        )
        .unwrap();
        self.demanded = decision.demanded;
        decision.look_again
    }

    /// What the status says: what is not known first, then what differs.
    pub(crate) fn outcome(self) -> Outcome {
        let of = |status: &str| {
            let general = ["Ready", "Healthy", "RemediationAllowed", "Reconciling", "Stalled"];
            let mut all = self.status.conditions.iter().filter(|condition| condition.status == status);
            all.clone().find(|one| !general.contains(&one.type_.as_str())).or_else(|| all.next())
        };
        let healthy = self.status.conditions.iter().any(|one| one.type_ == "Healthy" && one.status == "True");
        let told = of("Unknown").or_else(|| of("False"));
        Outcome {
            steps: self.steps,
            healthy,
            reason: told.map_or("AsDescribed".to_owned(), |one| format!("{} {}", one.type_, one.reason)),
            message: told.map_or(String::new(), |one| one.message.clone()),
        }
    }
}

/// How a failure comes and goes.
struct Pattern {
    /// Looks before it that are well.
    before: usize,
    /// Whether it is there in a look, counted from the first that has it.
    fails: fn(usize) -> bool,
}

/// From a well host on without end; from the operator's start on; in two looks of three.
const PATTERNS: &[Pattern] = &[
    Pattern { before: 3, fails: |_| true },
    Pattern { before: 0, fails: |_| true },
    Pattern { before: 1, fails: |look| look % 3 != 2 },
];

/// Looks from the first that fails on.
const LOOKS: usize = 10;

/// Ten looks, of which some are `broken` and the others `well`, in each pattern. Every second one comes when the
/// operator asks for it, the others 30 s after the one before. `Outcome::steps` are those of all.
pub(crate) fn ten_looks(
    spec: &BinderHostSpec,
    begin: Timestamp,
    well: &dyn Fn(SignedDuration) -> (Looked, FleetView),
    broken: &dyn Fn(SignedDuration) -> (Looked, FleetView),
) -> Outcome {
    let mut all: Option<Outcome> = None;
    for Pattern { before, fails } in PATTERNS {
        let mut operator = Operator::new(spec);
        let mut after = SignedDuration::from_secs(-30 * *before as i64);
        for look in 0..before + LOOKS {
            let is_broken = look >= *before && fails(look - before);
            let (looked, fleet) = if is_broken { broken(after) } else { well(after) };
            let usual = Duration::from_secs(30);
            let again = operator.look(looked, &fleet, begin + after).min(usual);
            let pause = if look >= *before && look % 2 == 0 { again } else { usual };
            after += SignedDuration::try_from(pause).unwrap();
        }
        let outcome = operator.outcome();
        match &mut all {
            None => all = Some(outcome),
            Some(all) => all.steps.extend(outcome.steps),
        }
    }
    all.unwrap_or_default()
}
