#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use super::*;
use crate::seen::crashes::Crash;
use crate::seen::lasting::Lasting;
use crate::seen::machine::Process;
use crate::seen::restarts::Climb;
use crate::seen::servers::Key;
use binder_crds::desired::Service;
use jiff::SignedDuration;
use std::collections::BTreeMap;

const LOGIN: u32 = 1000;
const CLOCK: i64 = 1_700_000_000;

/// A host in which pm2 runs one process (pid 40, up for `up_for` seconds) and others listen: port, pid, owner, command.
fn seen(process: &str, state: State, up_for: i64, listeners: &[(u16, u32, u32, &str)]) -> Observation {
    let process_of = |uid, command: &str| Process { parent: 1, uid, started_ticks: 900, command: command.to_owned() };
    let mut machine = Machine { uid: LOGIN, ticks: 100, clock: CLOCK, uptime: 100_000, ..Machine::default() };
    let started_ticks = u64::try_from((100_000 - up_for) * 100).unwrap();
    machine.processes.insert(40, Process { started_ticks, ..process_of(LOGIN, "node something") });
    for (port, pid, uid, command) in listeners {
        machine.processes.entry(*pid).or_insert_with(|| process_of(*uid, command));
        machine.listeners.insert(*port, vec![*pid]);
    }
    let row = Row {
        name: process.to_owned(),
        id: 0,
        pid: (state == State::Online).then_some(40),
        state,
        restarts: 0,
        started_ms: (CLOCK - up_for) * 1000,
        ..Row::default()
    };
    Observation {
        machine: Fact::Seen(machine),
        pm2: Fact::Seen(Table { daemon: true, rows: vec![row], ..Table::default() }),
        settings: Fact::Seen(Settings::default()),
        crashes: Fact::Seen(BTreeMap::new()),
        ..Observation::nothing(jiff::Timestamp::from_second(CLOCK).unwrap())
    }
}

/// The same, seen before already, so many seconds ago.
fn seen_before(mut seen: Observation, seconds: i64) -> Observation {
    let first = Lasting::default().carried(seen.marks(), seen.at - SignedDuration::from_secs(seconds));
    seen.lasting = first.carried(seen.marks(), seen.at);
    seen
}

fn climb(lasting: i64, quiet: i64) -> Climb {
    let seconds = SignedDuration::from_secs;
    Climb { restarts: 12, lasting: seconds(lasting), quiet: seconds(quiet), every: seconds(3) }
}

fn servers(server: Server) -> Desired {
    Desired { servers: vec![server], ..Desired::default() }
}

fn services(service: Service) -> Desired {
    Desired { services: vec![service], ..Desired::default() }
}

fn only(desired: &Desired, seen: &Observation) -> Drift {
    let check = Services.check(desired, seen).unwrap();
    assert_eq!(check.drifts.len(), 1, "{check:?}");
    check.drifts.into_iter().next().unwrap()
}

fn fine(desired: &Desired, seen: &Observation) -> bool {
    let check = Services.check(desired, seen).unwrap();
    check.drifts.is_empty() && check.progressing.is_empty()
}

#[test]
fn logging_is_judged_by_the_port_that_its_settings_say() {
    let desired = services(Service::Logging);
    let mut deaf = seen("binder-logging-service", State::Online, 300, &[]);
    assert!(fine(&desired, &deaf), "where nothing is said, no port is asked for");
    deaf.settings = Fact::Seen(Settings::of("logging", &["logstash", "port"], 9100));
    assert_eq!(only(&desired, &deaf).kind, DriftKind::NotListening);
    let mut well = seen("binder-logging-service", State::Online, 300, &[(9100, 40, LOGIN, "")]);
    well.settings = deaf.settings;
    assert!(fine(&desired, &well));
}

#[test]
fn settings_that_could_not_be_seen_are_no_reason_to_call_it_well() {
    let mut blind = seen("binder-db-service", State::Online, 300, &[(9050, 40, LOGIN, "")]);
    let reason = crate::seen::Reason::ProbeTimedOut;
    blind.settings = Fact::Unknown(Unknown { reason, message: String::new() });
    assert!(Services.check(&services(Service::Db), &blind).is_err());
    assert!(Services.asks(&services(Service::Db)).iter().any(|ask| ask.name == settings::NAME));
    assert!(Services.asks(&servers(Server::Web)).iter().any(|ask| ask.name == settings::NAME));
}

#[test]
fn a_services_port_may_be_held_by_docker_and_a_servers_may_not() {
    let docker = "/usr/bin/docker-proxy -proto tcp -host-port 9050";
    let database = seen("binder-db-service", State::Online, 300, &[(9050, 70, 0, docker)]);
    assert!(fine(&services(Service::Db), &database));
    let web = seen("binder-web-start", State::Online, 300, &[(3000, 70, 0, docker)]);
    assert_eq!(only(&servers(Server::Web), &web).kind, DriftKind::PortTaken);
}

#[test]
fn a_climb_with_its_port_in_somebody_elses_hands_is_that_and_is_left_alone() {
    for (state, climbs) in [(State::Online, true), (State::Launching, true), (State::Errored, false)] {
        let mut taken = seen("binder-web-start", state, 1, &[(3000, 70, 0, "python3 -m http.server")]);
        if climbs {
            taken.climbing.insert("binder-web-start".to_owned(), climb(60, 1));
        }
        let drift = only(&servers(Server::Web), &taken);
        assert_eq!(drift.kind, DriftKind::PortTaken, "{state:?}");
        assert!(drift.evidence.contains("python3"), "{}", drift.evidence);
        assert_eq!(Services.ladder(&servers(Server::Web), &taken, &drift), []);
    }
}

#[test]
fn a_climb_with_its_port_in_hands_that_cannot_be_seen_is_no_crash_of_its_own() {
    let mut taken = seen("binder-web-start", State::Online, 1, &[(3000, 70, 0, "")]);
    let Fact::Seen(machine) = &mut taken.machine else { panic!("no machine") };
    machine.listeners.insert(3000, Vec::new());
    // Without a climb, the port's answer has to do.
    assert!(fine(&servers(Server::Web), &taken));
    taken.climbing.insert("binder-web-start".to_owned(), climb(60, 1));
    assert_eq!(only(&servers(Server::Web), &taken).kind, DriftKind::PortTaken);
}

#[test]
fn a_crash_in_a_module_is_named_and_no_restart_is_tried_on_top() {
    let mut crashing = seen("binder-web-start", State::Online, 1, &[]);
    crashing.climbing.insert("binder-web-start".to_owned(), climb(60, 1));
    let crash = Crash {
        written: CLOCK - 2,
        line: "TypeError: x is not a function".to_owned(),
        modules: vec!["express".to_owned()],
    };
    crashing.crashes = Fact::Seen(BTreeMap::from([("binder-web-start".to_owned(), crash)]));
    let drift = only(&servers(Server::Web), &crashing);
    assert_eq!(drift.kind, DriftKind::RestartsClimbing);
    assert!(drift.evidence.contains("the module express"), "{}", drift.evidence);
    assert!(drift.evidence.contains("TypeError: x is not a function"), "{}", drift.evidence);
    assert_eq!(Services.ladder(&servers(Server::Web), &crashing, &drift), []);
}

#[test]
fn a_server_that_runs_out_of_memory_is_said_and_not_restarted_for_an_older_line() {
    let mut crashing = seen("binder-deploy-kubernetes-start", State::Online, 1, &[]);
    crashing.climbing.insert("binder-deploy-kubernetes-start".to_owned(), climb(60, 1));
    let crash = Crash {
        written: CLOCK - 2,
        line: "FATAL ERROR: CALL_AND_RETRY_LAST Allocation failed - process out of memory".to_owned(),
        modules: vec!["kube-stream".to_owned()],
    };
    crashing.crashes = Fact::Seen(BTreeMap::from([("binder-deploy-kubernetes-start".to_owned(), crash)]));
    let drift = only(&servers(Server::DeployKubernetes), &crashing);
    assert!(drift.evidence.contains("it ran out of memory"), "{}", drift.evidence);
    assert_eq!(Services.ladder(&servers(Server::DeployKubernetes), &crashing, &drift), []);
}

#[test]
fn a_process_that_pm2_replaced_during_the_look_is_not_lost() {
    let server = "node /usr/lib/binder-web/server/cli.js start";
    // Pid 30 listened when processes were listed; when pm2 was asked, it had just started another one.
    let replaced = |up_for| {
        let mut seen = seen("binder-web-start", State::Online, up_for, &[(3000, 30, LOGIN, server)]);
        let Fact::Seen(table) = &mut seen.pm2 else { panic!("no table") };
        table.rows[0].pid = Some(41);
        seen
    };
    let desired = servers(Server::Web);
    let check = Services.check(&desired, &replaced(0)).unwrap();
    assert!(check.drifts.is_empty() && check.progressing.len() == 1, "{check:?}");
    // A pid in pm2's table that has not been there for long is another story.
    assert_eq!(only(&desired, &seen_before(replaced(300), 5)).kind, DriftKind::LostByPm2);
}

#[test]
fn a_process_that_pm2_has_just_forgotten_may_be_ending() {
    let server = "node /usr/lib/binder-web/server/cli.js start";
    let mut deleted = seen("binder-web-start", State::Online, 300, &[(3000, 30, LOGIN, server)]);
    let Fact::Seen(table) = &mut deleted.pm2 else { panic!("no table") };
    table.rows.clear();
    let desired = servers(Server::Web);
    let check = Services.check(&desired, &deleted).unwrap();
    assert!(check.drifts.is_empty() && check.progressing.len() == 1, "{check:?}");
    assert_eq!(only(&desired, &seen_before(deleted.clone(), 4)).kind, DriftKind::LostByPm2);
    // Another process with its id is another one.
    let mut later = seen_before(deleted, 300);
    let Fact::Seen(machine) = &mut later.machine else { panic!("no machine") };
    if let Some(process) = machine.processes.get_mut(&30) {
        process.started_ticks += 1;
    }
    assert!(Services.check(&desired, &later).unwrap().drifts.is_empty());
}

#[test]
fn an_error_that_a_process_survived_is_not_why_it_ended() {
    let name = "binder-deploy-kubernetes-start";
    let desired = servers(Server::DeployKubernetes);
    let told = |state, up_for: i64, climbs: &str, log: &str, written: i64| {
        let mut seen = seen(name, state, up_for, &[]);
        if !climbs.is_empty() {
            seen.climbing.insert(climbs.to_owned(), climb(60, 1));
        }
        let line = "Error: connect ECONNREFUSED 127.0.0.1:8085".to_owned();
        let crash = Crash { written: CLOCK - written, line, modules: Vec::new() };
        seen.crashes = Fact::Seen(BTreeMap::from([(log.to_owned(), crash)]));
        let drift = only(&desired, &seen);
        (drift.evidence.contains("kube-stream"), !Services.ladder(&desired, &seen, &drift).is_empty())
    };
    // Its last words, and pm2 started it again at once; also where the next one has begun with a warning.
    for (up_for, written) in [(1, 2), (60, 61), (60, 70), (60, 55)] {
        assert_eq!(told(State::Online, up_for, name, name, written), (true, true), "{up_for} {written}");
    }
    // Survived for a minute: what ended it then (the kernel, out of memory) left no words. And what the one that runs says
    // is not why the one before it ended.
    for (up_for, written) in [(1, 61), (1, 120), (60, 170), (60, 20)] {
        assert_eq!(told(State::Online, up_for, name, name, written), (false, false), "{up_for} {written}");
    }
    // Another process's error is not its own.
    assert_eq!(told(State::Online, 1, name, "binder-kubernetes-daemon", 2), (false, false));
    // One that pm2 has given up: its last life began when pm2 says.
    assert!(told(State::Errored, 20, "", name, 19).0);
    assert!(!told(State::Errored, 20, "", name, 60).0);
}

#[test]
fn kube_streams_crash_is_known_and_cured_by_starting_the_group_again() {
    let mut crashing = seen("binder-deploy-kubernetes-start", State::Online, 1, &[]);
    crashing.climbing.insert("binder-deploy-kubernetes-start".to_owned(), climb(60, 1));
    let crash = Crash {
        written: CLOCK - 2,
        line: "Error: connect ECONNREFUSED 127.0.0.1:8085".to_owned(),
        modules: Vec::new(),
    };
    crashing.crashes = Fact::Seen(BTreeMap::from([("binder-deploy-kubernetes-start".to_owned(), crash.clone())]));
    let desired = servers(Server::DeployKubernetes);
    let drift = only(&desired, &crashing);
    assert_eq!(drift.kind, DriftKind::RestartsClimbing);
    assert!(drift.evidence.contains("kube-stream"), "{}", drift.evidence);
    let ladder = Services.ladder(&desired, &crashing, &drift);
    let crate::facets::Step::Services(Step::DeleteEntries { processes, .. }) = &ladder[0].step else {
        panic!("{ladder:?}")
    };
    assert_eq!(processes.len(), 3);
    // An old line in a log explains nothing of today.
    let old = Crash { written: CLOCK - 600, ..crash };
    crashing.crashes = Fact::Seen(BTreeMap::from([("binder-deploy-kubernetes-start".to_owned(), old)]));
    let drift = only(&desired, &crashing);
    assert!(!drift.evidence.contains("kube-stream"), "{}", drift.evidence);
    assert_eq!(Services.ladder(&desired, &crashing, &drift), []);
}

#[test]
fn that_a_server_crashed_in_kube_stream_is_said_also_while_a_child_of_it_climbs() {
    let component = catalogue::server(Server::DeployKubernetes);
    let child = component.children.iter().find(|child| child.required).unwrap().process.clone();
    let mut lost = seen("binder-web-start", State::Online, 1, &[]);
    let line = "Error: connect ECONNREFUSED 127.0.0.1:8085".to_owned();
    let crash = Crash { written: CLOCK - 2, line, modules: Vec::new() };
    lost.crashes = Fact::Seen(BTreeMap::from([(component.process.clone(), crash)]));
    assert_eq!(climbing::after_kube_stream(&component, &lost), "; it crashed in kube-stream");
    lost.climbing.insert(child, climb(60, 1));
    assert_eq!(climbing::after_kube_stream(&component, &lost), "; it crashed in kube-stream");
}

#[test]
fn a_climb_that_is_young_or_over_is_neither_a_difference_nor_healthy() {
    for climb in [climb(5, 1), climb(60, 15)] {
        let mut progressing = seen("binder-web-start", State::Online, 1, &[(3000, 40, LOGIN, "")]);
        progressing.climbing.insert("binder-web-start".to_owned(), climb);
        let check = Services.check(&servers(Server::Web), &progressing).unwrap();
        assert!(check.drifts.is_empty() && check.progressing.len() == 1, "{check:?}");
    }
}

#[test]
fn the_proxy_that_restarts_because_one_serves_by_hand_is_no_climb() {
    let mut seen = seen("binder-deploy-kubernetes-start", State::Online, 300, &[(8084, 40, LOGIN, "")]);
    let Fact::Seen(table) = &mut seen.pm2 else { panic!("no table") };
    table.rows.push(Row { name: "binder-kubernetes-daemon".to_owned(), ..table.rows[0].clone() });
    seen.climbing.insert("binder-kubernetes-proxy".to_owned(), climb(60, 1));
    assert!(fine(&servers(Server::DeployKubernetes), &seen));
    seen.climbing.insert("binder-kubernetes-daemon".to_owned(), climb(60, 1));
    assert_eq!(only(&servers(Server::DeployKubernetes), &seen).kind, DriftKind::RestartsClimbing);
}

/// Whether nothing is wrong, or what is wrong, and what would be done about it.
fn steps(desired: &Desired, seen: &Observation) -> (Vec<DriftKind>, Vec<&'static str>) {
    let drifts = Services.check(desired, seen).unwrap().drifts;
    let ladder = drifts.iter().flat_map(|drift| Services.ladder(desired, seen, drift));
    let kinds = ladder.map(|rung| rung.step.kind()).collect();
    (drifts.iter().map(|drift| drift.kind).collect(), kinds)
}

fn machine_of(seen: &mut Observation) -> &mut Machine {
    let Fact::Seen(machine) = &mut seen.machine else { panic!("no machine") };
    machine
}

fn table_of(seen: &mut Observation) -> &mut Table {
    let Fact::Seen(table) = &mut seen.pm2 else { panic!("no table") };
    table
}

#[test]
fn an_app_in_cluster_mode_is_one_app_whose_port_its_daemon_holds() {
    // cases.md, 5: four rows of one app; port 4000 is held by `PM2 v4.4.1: God Daemon`.
    let desired = Desired {
        processes: vec![binder_crds::desired::Process {
            name: "load".into(),
            ports: vec![4000],
            start: vec!["start-load".into()],
            ..Default::default()
        }],
        ..Desired::default()
    };
    let god = "PM2 v4.4.1: God Daemon (/home/andrew/.pm2)";
    let mut clustered = seen("load", State::Online, 300, &[(4000, 900, LOGIN, god)]);
    let Some(worker) = machine_of(&mut clustered).processes.get_mut(&40) else { panic!("no worker") };
    worker.parent = 900;
    let one = table_of(&mut clustered).rows[0].clone();
    table_of(&mut clustered).rows = (0..4).map(|id| Row { id, cluster: true, ..one.clone() }).collect();
    assert!(fine(&desired, &clustered));
    table_of(&mut clustered).rows.truncate(1);
    assert!(fine(&desired, &clustered));
    // In fork mode two of a name are two.
    table_of(&mut clustered).rows = vec![one.clone(), one];
    assert_eq!(steps(&desired, &clustered).0, [DriftKind::ProcessDoubled]);
}

#[test]
fn a_server_under_another_pm2_home_or_a_supervisor_is_not_lost() {
    // cases.md, 6.
    let server = "node /usr/lib/binder-web/server/cli.js start";
    let desired = servers(Server::Web);
    let under = |parent: &str, uid: u32| {
        let mut seen = seen("other", State::Online, 300, &[(3000, 30, LOGIN, server)]);
        let machine = machine_of(&mut seen);
        machine.processes.insert(800, Process { parent: 1, uid, started_ticks: 9, command: parent.to_owned() });
        machine.processes.entry(30).and_modify(|process| process.parent = 800);
        machine.processes.insert(
            900,
            Process { parent: 1, uid: LOGIN, started_ticks: 9, command: "PM2 v1.1.3: God Daemon".to_owned() },
        );
        machine.processes.entry(40).and_modify(|process| process.parent = 900);
        seen_before(seen, 60)
    };
    for (parent, words) in [
        ("PM2 v1.1.3: God Daemon (/srv/binder/.pm2)", "/srv/binder/.pm2"),
        ("PM2 v1.1.3: God Daemon", "PM2_HOME"),
        ("SCREEN -S web", "SCREEN"),
        ("/usr/bin/python /usr/bin/supervisord", "under /usr/bin/python"),
    ] {
        let seen = under(parent, LOGIN);
        assert_eq!(steps(&desired, &seen), (vec![DriftKind::PortTaken], vec![]), "{parent}");
        let evidence = only(&desired, &seen).evidence;
        assert!(evidence.contains(words), "{evidence}");
    }
    // What this very daemon lost, and what was left to init or a login's systemd, is ours.
    // So is what a script of somebody's own starts past pm2, again and again (`web-deploy-stuck`).
    for (parent, pid) in [
        ("", 900),
        ("", 1),
        ("/lib/systemd/systemd --user", 800),
        ("node -e const again = () => spawn(\"node\", args)", 800),
        ("/bin/sh /home/andrew/keep-web.sh", 800),
    ] {
        let mut seen = under(parent, LOGIN);
        machine_of(&mut seen).processes.entry(30).and_modify(|process| process.parent = pid);
        assert_eq!(steps(&desired, &seen), (vec![DriftKind::LostByPm2], vec!["EndOrphan"]), "{parent} {pid}");
    }
}

#[test]
fn a_server_is_judged_by_the_port_that_its_settings_say() {
    // cases.md, 7: { "port": 8080, "public": true }, and node listens on *:8080.
    let desired = servers(Server::Web);
    let mut moved = seen("binder-web-start", State::Online, 300, &[(8080, 40, LOGIN, "")]);
    moved.settings = Fact::Seen(Settings::of("web", &["port"], 8080));
    assert!(fine(&desired, &moved));
    let desired = servers(Server::DeployKubernetes);
    let mut moved = seen("binder-deploy-kubernetes-start", State::Online, 300, &[(9084, 40, LOGIN, "")]);
    moved.settings = Fact::Seen(Settings::of("deploy", &["port"], 9084));
    let daemon = Row { name: "binder-kubernetes-daemon".to_owned(), ..table_of(&mut moved).rows[0].clone() };
    table_of(&mut moved).rows.push(daemon);
    assert!(fine(&desired, &moved));
}

#[test]
fn a_server_that_listens_on_another_port_is_alive_and_left_alone() {
    let moved = seen("binder-web-start", State::Online, 300, &[(8080, 40, LOGIN, "")]);
    let desired = servers(Server::Web);
    assert_eq!(steps(&desired, &moved), (vec![DriftKind::ListensElsewhere], vec![]));
    assert!(only(&desired, &moved).evidence.contains("8080"));
    let deaf = seen("binder-web-start", State::Online, 300, &[]);
    assert_eq!(steps(&desired, &deaf), (vec![DriftKind::NotListening], vec!["DeleteEntries"]));
}

#[test]
fn dockers_own_programs_hold_a_services_port_in_all_their_forms() {
    // cases.md, 34.
    let desired = services(Service::Db);
    for holder in [
        "/usr/bin/dockerd -H fd:// --userland-proxy=false",
        "/usr/bin/docker daemon -H fd://",
        "docker -d",
        "/usr/bin/rootlesskit --net=slirp4netns dockerd",
    ] {
        assert!(fine(&desired, &seen("binder-db-service", State::Online, 300, &[(9050, 70, 0, holder)])), "{holder}");
    }
    // A mongod in the host's network, below the parent of its container.
    let mut host = seen("binder-db-service", State::Online, 300, &[(9050, 70, 999, "mongod --port 9050")]);
    assert_eq!(steps(&desired, &host).0, [DriftKind::PortTaken]);
    let shim = "/usr/bin/containerd-shim-runc-v2 -namespace moby -id 1";
    let machine = machine_of(&mut host);
    machine.processes.insert(60, Process { parent: 1, uid: 0, started_ticks: 9, command: shim.to_owned() });
    machine.processes.entry(70).and_modify(|process| process.parent = 60);
    assert!(fine(&desired, &host));
}

#[test]
fn an_owner_that_cannot_be_seen_is_not_somebody_else() {
    let desired = servers(Server::Web);
    let mut hidden = seen("binder-web-start", State::Online, 300, &[(3000, 70, 0, "")]);
    // Its pid is told and its process is not (hidepid), or not even its pid (sudo refuses).
    machine_of(&mut hidden).processes.remove(&70);
    assert!(fine(&desired, &hidden));
    machine_of(&mut hidden).listeners.insert(3000, Vec::new());
    machine_of(&mut hidden).unseen_owners = Some("sudo: a password is required".to_owned());
    assert!(fine(&desired, &hidden));
    table_of(&mut hidden).rows.clear();
    assert_eq!(steps(&desired, &hidden).1, Vec::<&str>::new());
    let evidence = only(&desired, &hidden).evidence;
    assert!(evidence.contains("sudo: a password is required"), "{evidence}");
}

#[test]
fn an_entry_that_runs_another_program_is_not_deleted_for_its_name() {
    let desired = servers(Server::Web);
    for state in [State::Stopped, State::Errored] {
        let mut foreign = seen("binder-web-start", state, 300, &[]);
        table_of(&mut foreign).rows[0].script = Some("/home/andrew/website/index.js".to_owned());
        assert_eq!(steps(&desired, &foreign), (vec![DriftKind::AnotherProgram], vec![]), "{state:?}");
        table_of(&mut foreign).rows[0].script = Some("/usr/lib/node_modules/binder-web/server/cli.js".to_owned());
        assert_eq!(steps(&desired, &foreign).1, ["DeleteEntries"], "{state:?}");
    }
}

#[test]
fn a_clock_that_jumps_makes_no_server_old() {
    let desired = servers(Server::Web);
    let starting = |clock: i64| {
        let mut seen = seen("binder-web-start", State::Online, 5, &[]);
        machine_of(&mut seen).clock += clock;
        Services.check(&desired, &seen).unwrap()
    };
    for clock in [0, 86_400, -86_400] {
        let check = starting(clock);
        assert!(check.drifts.is_empty() && check.progressing.len() == 1, "{clock}: {check:?}");
    }
}

#[test]
fn a_stopped_entry_whose_port_is_somebody_elses_is_left_alone() {
    let desired = servers(Server::Web);
    let taken = seen("binder-web-start", State::Stopped, 1, &[(3000, 70, 0, "nginx: master process")]);
    assert_eq!(steps(&desired, &taken), (vec![DriftKind::PortTaken], vec![]));
}

#[test]
fn a_server_is_asked_on_the_port_that_its_settings_say_and_nowhere_where_they_are_not_known() {
    let said = Fact::Seen(Settings::of("build", &["port"], 9082));
    assert_eq!(port(Server::Build, &said).unwrap(), 9082);
    assert_eq!(port(Server::Health, &said).unwrap(), 8086);
    assert_eq!(port(Server::Build, &Fact::NotAsked).unwrap(), 8082);
    let why = Unknown { reason: Reason::ProbeFailed, message: "Binder's settings: head failed".to_owned() };
    assert_eq!(port(Server::Build, &Fact::Unknown(why.clone())), Err(why));
}

#[test]
fn a_server_on_another_port_is_blamed_for_what_it_answers_itself() {
    let desired = servers(Server::Build);
    let answers = |key| {
        let mut said = crate::seen::servers::Servers::default();
        said.keys.insert("build".to_owned(), key);
        Fact::Seen(said)
    };
    let mut moved = seen("binder-build-start", State::Online, 300, &[(9082, 40, LOGIN, ""), (8082, 70, 0, "nginx")]);
    moved.settings = Fact::Seen(Settings::of("build", &["port"], 9082));
    moved.servers = answers(Key::Refused);
    assert!(fine(&desired, &moved));
    let judge = |seen: &Observation| crate::facets::api_keys::ApiKeys.check(&desired, seen);
    assert_eq!(judge(&moved).unwrap().drifts[0].kind, DriftKind::KeyRefused);
    moved.servers = answers(Key::Accepted);
    assert_eq!(judge(&moved).unwrap().drifts, []);
    // What listens on the usual port is then another program, and what it answers is not the server's.
    moved.settings = Fact::NotAsked;
    moved.servers = answers(Key::Refused);
    assert!(judge(&moved).unwrap_err().message.contains("does not run as described"));
}
