//! Facet `kubectl_proxy`: the port is served, by the right kubectl, for the right cluster.
//!
//! Who serves it does not matter (a person's `screen`, pm2's `binder-kubernetes-proxy`, the operator): what counts is what
//! `deploy-kubernetes` meets on the port.

mod steps;

pub use steps::Step;

use super::process::ProcessId;
use super::{Check, Drift, DriftKind, Facet, Rung, Subject, services};
use crate::catalogue::{self, KUBECTL_PROXY};
use crate::seen::machine::Machine;
use crate::seen::proxy::{Cluster, Kubectl, Proxy};
use crate::seen::{Ask, Observation, Reason, Unknown, proxy};
use binder_crds::{Desired, conditions, desired};
use std::path::Path;
use std::time::Duration;

/// The facet.
pub struct KubectlProxy;

/// A kubectl proxy answers within moments; a machine under load gets more.
const TAKES_EFFECT: Duration = Duration::from_secs(20);

/// How long pm2 may take to let go of an entry.
const GONE_WITHIN: Duration = Duration::from_secs(30);

impl Facet for KubectlProxy {
    fn condition(&self) -> &'static str {
        conditions::PROXY_SERVING
    }

    fn in_use(&self, desired: &Desired) -> bool {
        desired.kubectl_proxy.is_some()
    }

    fn asks(&self, desired: &Desired) -> Vec<Ask> {
        desired.kubectl_proxy.iter().map(|spec| proxy::ask(spec.port, spec.kubectl.0.clone())).collect()
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let Some(spec) = &desired.kubectl_proxy else { return Ok(Check::default()) };
        let (machine, proxy) = (seen.machine.get()?, seen.proxy.get()?);
        let drift = look(spec, machine, proxy)?.map(|(kind, short, evidence)| Drift {
            kind,
            subject: Subject::KubectlProxy,
            short: format!("{}: {short}", spec.port),
            evidence,
        });
        let pinned = if spec.cluster_id.is_some() { "the described cluster" } else { "cluster" };
        let cluster = match &proxy.cluster {
            Cluster::Identity(identity) => format!("{pinned} {identity}"),
            _ => "a cluster".to_owned(),
        };
        Ok(Check {
            drifts: drift.into_iter().collect(),
            as_described: format!("{} is served by kubectl for {cluster}", spec.port),
            ..Check::default()
        })
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        // Before `deploy-kubernetes`, which is started through it.
        35
    }

    fn ladder(&self, desired: &Desired, seen: &Observation, drift: &Drift) -> Vec<Rung> {
        let (Some(spec), Some(machine)) = (&desired.kubectl_proxy, seen.machine.seen()) else { return Vec::new() };
        let rung = |step: Step| Rung::new(step, TAKES_EFFECT);
        let deletion = |step: services::Step| Rung::new(step, GONE_WITHIN);
        match drift.kind {
            DriftKind::NothingListens => {
                let early = services::started_without_proxy(desired, seen);
                let start = Step::StartKubectlProxy { port: spec.port, kubectl: spec.kubectl.0.clone() };
                early.map(|component| deletion(services::delete(&component))).into_iter().chain([rung(start)]).collect()
            }
            // The wrong one is ended only if it is a kubectl proxy of the login's own; the right one is started after.
            // What was started while it served has met the wrong cluster and goes first: a start after the right proxy is
            // there then follows from its absence.
            DriftKind::WrongKubectl | DriftKind::WrongCluster => match own_kubectl(spec.port, machine) {
                None => Vec::new(),
                Some(process) => {
                    let misled = misled(desired, seen, process.started_ticks).map(deletion);
                    let held = held_by_pm2(desired, seen, process.pid).map(deletion);
                    let end = rung(Step::EndKubectlProxy { port: spec.port, process });
                    misled.or(held).into_iter().chain([end]).collect()
                }
            },
            _ => Vec::new(),
        }
    }
}

/// What differs: its kind, and what is said of it.
type Differs = (DriftKind, String, String);

/// Compares.
///
/// # Errors
/// [`Unknown`] when nothing tells which kubectl serves the port.
fn look(spec: &desired::KubectlProxy, machine: &Machine, proxy: &Proxy) -> Result<Option<Differs>, Unknown> {
    let (port, kubectl) = (spec.port, &spec.kubectl);
    let Some(pids) = machine.listeners.get(&port) else {
        return Ok(Some(match &proxy.kubectl {
            Kubectl::Missing => (
                DriftKind::KubectlUnusable,
                "nothing serves, kubectl not found".to_owned(),
                format!(
                    "nothing listens on {port}, and {kubectl} does not exist: correct kubectlProxy.kubectl or put it there"
                ),
            ),
            Kubectl::Forbidden => (
                DriftKind::KubectlUnusable,
                "nothing serves, kubectl not executable".to_owned(),
                format!("nothing listens on {port}, and {kubectl} may not be executed: chmod +x it"),
            ),
            Kubectl::Script | Kubectl::Binary(_) => {
                (DriftKind::NothingListens, "nothing serves".to_owned(), format!("nothing listens on {port}"))
            }
        }));
    };
    let process = pids.first().and_then(|pid| machine.processes.get(pid));
    if let Some(process) = process.filter(|process| !is_kubectl(&process.command)) {
        let program: String = process.command.split(' ').next().unwrap_or_default().chars().take(60).collect();
        return Ok(Some((
            DriftKind::NotKubectl,
            "taken by something else".to_owned(),
            format!(
                "{program} (user id {}) listens on {port}, which is not a kubectl proxy: stop it or free the port",
                process.uid
            ),
        )));
    }
    if let (Some(wanted), Cluster::Identity(found)) = (&spec.cluster_id, &proxy.cluster)
        && wanted.0 != *found
    {
        return Ok(Some((
            DriftKind::WrongCluster,
            "another cluster".to_owned(),
            format!("{port} leads to the cluster {found}, not to {wanted}"),
        )));
    }
    // Whichever kubectl it is, it leads where it should.
    let proven =
        matches!((&spec.cluster_id, &proxy.cluster), (Some(wanted), Cluster::Identity(found)) if wanted.0 == *found);
    let which = which(proxy, &kubectl.0);
    if let Which::Another(other) = which
        && !proven
    {
        let evidence = format!("{other} serves {port}, not {kubectl}");
        return Ok(Some((DriftKind::WrongKubectl, "another kubectl".to_owned(), evidence)));
    }
    let (short, evidence) = match &proxy.cluster {
        Cluster::Identity(_) | Cluster::NotAsked => return Ok(None),
        Cluster::Status(status) => (
            "no cluster behind it",
            format!("the proxy on {port} runs, but the cluster behind it answers with HTTP {status}"),
        ),
        Cluster::NoAnswer(why) => {
            ("does not answer", format!("something listens on {port} but does not answer as a kubectl proxy: {why}"))
        }
    };
    // Neither its file nor its cluster tells what it is.
    if which == Which::Undecided {
        let message =
            format!("{evidence}, and whether it is {kubectl} cannot be told: look at the process and at the master");
        return Err(Unknown { reason: Reason::NotJudged, message });
    }
    Ok(Some((DriftKind::ClusterNotAnswering, short.to_owned(), evidence)))
}

/// Whether a command line is that of `kubectl proxy`, also as a part of another program (`k3s kubectl proxy`).
fn is_kubectl(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    let is = |word: &&str| {
        let name = word.rsplit('/').next().unwrap_or(word);
        name.starts_with("kubectl") || name.ends_with(".kubectl")
    };
    let kubectl = words.iter().take(2).position(is);
    kubectl.is_some_and(|at| words[at + 1..].contains(&"proxy"))
}

/// Which kubectl serves the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which<'p> {
    /// The described one.
    Described,
    /// Surely another one, by its path.
    Another(&'p str),
    /// What was seen does not tell.
    Undecided,
}

/// Which kubectl serves the port. One file has many paths, so files are compared, and only where both were seen; and what
/// starts kubectl (snap, a dispatcher of versions, a script) is not what then runs, so that only the cluster which answers tells
/// whether it is right.
fn which<'p>(proxy: &'p Proxy, described: &str) -> Which<'p> {
    let files = &proxy.files;
    let same = |file: Option<&String>| file.zip(files.described.as_ref()).map(|(file, described)| file == described);
    match &proxy.kubectl {
        Kubectl::Binary(wanted) => {
            let Some(found) = proxy.program.as_deref() else { return Which::Undecided };
            let name = |path: &'_ str| path.rsplit('/').next().unwrap_or_default().to_owned();
            // `/snap/bin/kubectl` is the program `snap`; and a dispatcher starts the version that it wants, from its own folder.
            let launcher = !name(wanted).starts_with("kubectl")
                || Path::new(wanted).parent() == Path::new(found).parent() && name(found).starts_with("kubectl");
            // Some other program, such as an interpreter, cannot be compared with a kubectl.
            let kubectl = name(found).starts_with("kubectl");
            match same(files.program.as_ref()) {
                _ if wanted == found => Which::Described,
                Some(true) => Which::Described,
                Some(false) if kubectl && !launcher => Which::Another(found),
                Some(false) | None => Which::Undecided,
            }
        }
        Kubectl::Script => {
            let is_described = |(file, path): &(String, String)| same(Some(file)) == Some(true) || path == described;
            match files.scripts.iter().find(|script| !is_described(script)) {
                Some((_, path)) if files.described.is_some() => Which::Another(path.as_str()),
                Some(_) => Which::Undecided,
                None if files.scripts.is_empty() => Which::Undecided,
                None => Which::Described,
            }
        }
        Kubectl::Missing | Kubectl::Forbidden => Which::Undecided,
    }
}

/// Deletes the first component that depends on the proxy and was started after a process that served it wrongly.
fn misled(desired: &Desired, seen: &Observation, since: u64) -> Option<services::Step> {
    let (machine, table) = (seen.machine.seen()?, seen.pm2.seen()?);
    let component = catalogue::described(desired).into_iter().find(|component| {
        component.after.iter().any(|name| name == KUBECTL_PROXY)
            && table
                .named(&component.process)
                .filter_map(|row| machine.processes.get(&row.pid?))
                .any(|process| process.started_ticks > since)
    })?;
    Some(services::delete(&component))
}

/// Deletes the entry of pm2 that the wrong proxy runs under, if it is one that a component starts: pm2 would start what is
/// only ended again. This is `binder-kubernetes-proxy` when `deploy-kubernetes` found another `kubectl.sh` on its `PATH`.
fn held_by_pm2(desired: &Desired, seen: &Observation, pid: u32) -> Option<services::Step> {
    let (machine, table) = (seen.machine.seen()?, seen.pm2.seen()?);
    let row = table.rows.iter().find(|row| row.pid.is_some_and(|own| machine.descends(pid, own)))?;
    let known = catalogue::described(desired)
        .iter()
        .any(|component| component.children.iter().any(|child| child.process == row.name && !child.required));
    known.then(|| services::Step::DeleteEntries {
        component: KUBECTL_PROXY.to_owned(),
        processes: vec![row.name.clone()],
    })
}

fn own_kubectl(port: u16, machine: &Machine) -> Option<ProcessId> {
    machine.listeners.get(&port)?.iter().find_map(|pid| {
        let process = machine.processes.get(pid)?;
        let ours = process.uid == machine.uid && is_kubectl(&process.command) && process.started_ticks > 0;
        ours.then(|| ProcessId { pid: *pid, started_ticks: process.started_ticks, signature: "kubectl".to_owned() })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::facets::Step as AnyStep;
    use crate::seen::Fact;
    use crate::seen::machine::Process;
    use crate::seen::pm2::{Row, State, Table};
    use crate::seen::proxy::Files;
    use binder_crds::desired::Server;
    use binder_crds::text::{ClusterId, HostPath};
    use std::collections::BTreeMap;

    const OURS: &str = "1b671a64-40d5-491e-99b0-da01ff1f3341";
    const LOGIN: u32 = 1000;

    fn described() -> Desired {
        Desired {
            servers: vec![Server::DeployKubernetes],
            kubectl_proxy: Some(desired::KubectlProxy {
                port: 8085,
                kubectl: HostPath::from("/home/andrew/kubernetes/cluster/kubectl.sh"),
                cluster_id: Some(ClusterId::from(OURS)),
            }),
            ..Desired::default()
        }
    }

    /// A proxy (pid 50) of another cluster, and what else runs: pid, start in ticks, owner, command, name in pm2.
    fn seen(others: &[(u32, u64, u32, &str, Option<&str>)]) -> Observation {
        let mut machine = Machine { uid: LOGIN, ticks: 100, ..Machine::default() };
        let mut rows = Vec::new();
        for (pid, started_ticks, uid, command, name) in others {
            let process =
                Process { parent: 1, uid: *uid, started_ticks: *started_ticks, command: (*command).to_owned() };
            machine.processes.insert(*pid, process);
            rows.extend(name.map(|name| Row {
                name: name.to_owned(),
                id: *pid,
                pid: Some(*pid),
                state: State::Online,
                restarts: 0,
                started_ms: 0,
                ..Row::default()
            }));
        }
        machine.listeners = BTreeMap::from([(8085, vec![50])]);
        Observation {
            machine: Fact::Seen(machine),
            pm2: Fact::Seen(Table { daemon: true, rows, ..Table::default() }),
            proxy: Fact::Seen(Proxy {
                kubectl: Kubectl::Script,
                program: None,
                files: Files::default(),
                cluster: Cluster::Identity("00000000-0000-0000-0000-000000000000".to_owned()),
            }),
            ..Observation::nothing(jiff::Timestamp::UNIX_EPOCH)
        }
    }

    const PROXY: &str = "/opt/other/kubectl --kubeconfig=/opt/other/config proxy --port=8085";
    const DEPLOY: &str = "node binder-deploy-kubernetes/lib/cli.js start";

    fn steps(seen: &Observation) -> Vec<AnyStep> {
        let check = KubectlProxy.check(&described(), seen).unwrap();
        assert_eq!(check.drifts[0].kind, DriftKind::WrongCluster);
        KubectlProxy.ladder(&described(), seen, &check.drifts[0]).into_iter().map(|rung| rung.step).collect()
    }

    #[test]
    fn the_wrong_proxy_is_ended_if_it_is_the_logins_own() {
        let own =
            seen(&[(50, 900, LOGIN, PROXY, None), (40, 500, LOGIN, DEPLOY, Some("binder-deploy-kubernetes-start"))]);
        assert!(
            matches!(&steps(&own)[..], [AnyStep::KubectlProxy(Step::EndKubectlProxy { process, .. })] if process.pid == 50)
        );
        let others = seen(&[(50, 900, 0, PROXY, None)]);
        assert_eq!(steps(&others), []);
    }

    #[test]
    fn what_was_started_while_the_wrong_one_served_goes_first() {
        let seen =
            seen(&[(50, 100, LOGIN, PROXY, None), (40, 500, LOGIN, DEPLOY, Some("binder-deploy-kubernetes-start"))]);
        let steps = steps(&seen);
        assert!(
            matches!(&steps[..], [AnyStep::Services(services::Step::DeleteEntries { component, .. }), _] if component == "deploy-kubernetes"),
            "{steps:?}"
        );
    }

    #[test]
    fn one_that_pm2_would_start_again_is_deleted_there_and_somebody_elses_entry_is_not() {
        let held = |name| seen(&[(50, 900, LOGIN, PROXY, Some(name))]);
        let steps_of = steps(&held("binder-kubernetes-proxy"));
        let [
            AnyStep::Services(services::Step::DeleteEntries { processes, .. }),
            AnyStep::KubectlProxy(Step::EndKubectlProxy { .. }),
        ] = &steps_of[..]
        else {
            panic!("{steps_of:?}")
        };
        assert_eq!(processes, &["binder-kubernetes-proxy"]);
        // An owner's own proxy under pm2 is no child of a component: its process is ended, its entry is theirs.
        assert!(matches!(&steps(&held("my-proxy"))[..], [AnyStep::KubectlProxy(Step::EndKubectlProxy { .. })]));
    }

    /// A proxy as it is: the described path, the resolved kubectl, its file, the program, its file, scripts, the command.
    fn served(kubectl: Kubectl, program: &str, files: Files, cluster: Cluster, command: &str) -> Observation {
        let mut seen = seen(&[(50, 900, LOGIN, command, None)]);
        seen.proxy = Fact::Seen(Proxy { kubectl, program: Some(program.to_owned()), files, cluster });
        seen
    }

    fn kinds(desired: &Desired, seen: &Observation) -> Vec<DriftKind> {
        KubectlProxy.check(desired, seen).unwrap().drifts.iter().map(|drift| drift.kind).collect()
    }

    #[test]
    fn the_right_kubectl_by_another_name_is_right() {
        // cases.md, 8 a-d, without a cluster id, so that only the files count.
        let mut desired = described();
        desired.kubectl_proxy.as_mut().unwrap().cluster_id = None;
        let file = |id: &str| Some(id.to_owned());
        let files = |described: &str, program: &str| Files {
            described: file(described),
            program: file(program),
            ..Files::default()
        };
        let any = || Cluster::Identity(OURS.to_owned());
        let binary = |path: &str| Kubectl::Binary(path.to_owned());
        let of_script = Files {
            described: file("1:7"),
            program: file("1:8"),
            scripts: vec![("1:7".to_owned(), "/data/home/andrew/./kubernetes/cluster/kubectl.sh".to_owned())],
        };
        for (name, kubectl, program, files) in [
            ("upgraded under the running proxy", binary("/usr/bin/kubectl"), "/usr/bin/kubectl", files("1:2", "1:3")),
            ("snap", binary("/usr/bin/snap"), "/snap/kubectl/3214/kubectl", files("1:2", "1:3")),
            ("the dispatcher's", binary("/opt/sdk/bin/kubectl"), "/opt/sdk/bin/kubectl.1.18", files("1:2", "1:3")),
            ("one file, two paths", binary("/usr/bin/kubectl"), "/data/bin/kubectl", files("1:2", "1:2")),
            ("a script by another spelling", Kubectl::Script, "/r/platforms/linux/amd64/kubectl", of_script),
        ] {
            let seen = served(kubectl, program, files, any(), "/usr/bin/kubectl proxy --port=8085");
            assert_eq!(kinds(&desired, &seen), [], "{name}");
        }
    }

    #[test]
    fn another_kubectl_is_wrong_unless_it_leads_to_the_described_cluster() {
        let files = || Files {
            described: Some("1:7".to_owned()),
            program: Some("1:8".to_owned()),
            scripts: vec![("1:9".to_owned(), "/home/andrew/kubernetes-0.9/cluster/kubectl.sh".to_owned())],
        };
        for (cluster, drifts) in [
            (Cluster::Status(404), vec![DriftKind::WrongKubectl]),
            (Cluster::NoAnswer("refused".to_owned()), vec![DriftKind::WrongKubectl]),
            (Cluster::Identity(OURS.to_owned()), vec![]),
            (Cluster::Identity("00000000-0000-0000-0000-000000000000".to_owned()), vec![DriftKind::WrongCluster]),
        ] {
            let seen = served(Kubectl::Script, "/r/kubectl", files(), cluster.clone(), "/r/kubectl proxy --port=8085");
            assert_eq!(kinds(&described(), &seen), drifts, "{cluster:?}");
            let other = served(
                Kubectl::Binary("/usr/bin/kubectl".to_owned()),
                "/opt/other/kubectl",
                Files { scripts: Vec::new(), ..files() },
                cluster.clone(),
                "/opt/other/kubectl proxy",
            );
            assert_eq!(kinds(&described(), &other), drifts, "{cluster:?}");
        }
    }

    /// Where files do not tell which kubectl it is, and no cluster says so either, nothing is known, and nothing is ended.
    #[test]
    fn a_kubectl_that_nothing_tells_apart_is_unknown_while_no_cluster_answers() {
        let binary = |path: &str| Kubectl::Binary(path.to_owned());
        let script = |described: Option<&str>| Files {
            described: described.map(str::to_owned),
            program: None,
            scripts: vec![("1:9".to_owned(), "/srv/other/kubectl.sh".to_owned())],
        };
        let program = |described: Option<&str>, program: Option<&str>| Files {
            described: described.map(str::to_owned),
            program: program.map(str::to_owned),
            ..Files::default()
        };
        let command = "/usr/bin/kubectl proxy --port=8085";
        for (name, kubectl, found, files) in [
            ("its program cannot be seen", binary("/usr/bin/kubectl"), None, program(Some("1:2"), None)),
            ("its file cannot be seen", binary("/usr/bin/kubectl"), Some("/opt/kubectl"), program(Some("1:2"), None)),
            ("nor can the described one", binary("/usr/bin/kubectl"), Some("/opt/kubectl"), program(None, Some("1:3"))),
            ("snap", binary("/usr/bin/snap"), Some("/snap/kubectl/3214/kubectl"), program(Some("1:2"), Some("1:3"))),
            ("a script that leaves no trace", Kubectl::Script, Some("/r/kubectl"), program(Some("1:7"), Some("1:8"))),
            ("the described script cannot be seen", Kubectl::Script, Some("/r/kubectl"), script(None)),
            ("the described one is gone", Kubectl::Missing, Some("/r/kubectl"), Files::default()),
        ] {
            for cluster in [Cluster::Status(502), Cluster::NoAnswer("refused".to_owned())] {
                let mut seen = served(kubectl.clone(), "", files.clone(), cluster, command);
                let Fact::Seen(proxy) = &mut seen.proxy else { panic!() };
                proxy.program = found.map(str::to_owned);
                let blind = KubectlProxy.check(&described(), &seen).unwrap_err();
                assert_eq!(blind.reason, Reason::NotJudged, "{name}");
                assert!(blind.message.contains("cannot be told"), "{name}: {}", blind.message);
                // The described cluster answers: it is right, whatever it is.
                let Fact::Seen(proxy) = &mut seen.proxy else { panic!() };
                proxy.cluster = Cluster::Identity(OURS.to_owned());
                assert_eq!(kinds(&described(), &seen), [], "{name}");
            }
        }
        let known = served(
            binary("/usr/bin/kubectl"),
            "/usr/bin/kubectl",
            program(Some("1:2"), Some("1:2")),
            Cluster::Status(502),
            command,
        );
        assert_eq!(kinds(&described(), &known), [DriftKind::ClusterNotAnswering]);
    }

    #[test]
    fn kubectl_within_another_program_is_kubectl() {
        for command in
            ["k3s kubectl proxy --port=8085", "/hyperkube kubectl proxy", "/snap/bin/microk8s.kubectl proxy", PROXY]
        {
            assert!(is_kubectl(command), "{command}");
        }
        for command in ["node proxy", "nginx: master process kubectl proxy", "kubectl", "kubectl get pods", ""] {
            assert!(!is_kubectl(command), "{command}");
        }
    }
}
