//! What an owner can describe beyond Binder: a pm2 process of their own, hosts written by hand.

use std::sync::Arc;
use std::time::Duration;

use binder_crds::conditions;
use binder_lab::stage::{LOGIN_SECRET, NAMESPACE, acts, owner};
use libtest_mimic::Trial;
use serde_json::json;

use crate::place::Place;
use crate::set::Set;
use crate::{Outcome, ensure, failed, trial};

const LIMIT: Duration = Duration::from_secs(120);
const BUILD: &str = "binder-tester-2";
const WEB: &str = "binder-web-deploy";
const SERVICES: &str = "binder-services";
const MANAGEMENT: &str = "binder-api";
const MASTER: &str = "kubernetes-master";

pub(crate) fn trials(place: &Arc<Place>, trials: &mut Vec<Trial>) {
    trials.push(trial(place, "described::a_process_of_the_owners_own_is_kept_running", async |set| {
        let host = set.stage.lab.host(BUILD).map_err(failed)?;
        let program =
            "cat >/home/andrew/echo.js <<'END'\nrequire('net').createServer(s => s.end('echo\\n')).listen(7777)\nEND\n";
        host.script_as_user(program, &[]).await.map_err(failed)?;
        let status = set.stage.lab.status().map_err(failed)?;
        let mut file = owner::file(&status, "Enforce");
        for host in file["spec"]["hosts"].as_array_mut().into_iter().flatten().filter(|host| host["name"] == BUILD) {
            host["processes"] = json!([{
                "name": "echo",
                "start": ["pm2", "start", "/home/andrew/echo.js", "--name", "echo"],
                "ports": [7777],
                "after": ["build"],
                "startupTimeout": "20s",
            }]);
        }
        let since = set.stage.mark(BUILD).await.map_err(failed)?;
        set.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
        echoes(set).await?;
        set.stage.healthy(&[BUILD], LIMIT).await.map_err(failed)?;
        host.script_as_user("pm2 delete echo", &[]).await.map_err(failed)?;
        set.stage
            .condition(BUILD, conditions::SERVICES_RUNNING, "False", Some("ProcessMissing"), LIMIT)
            .await
            .map_err(failed)?;
        echoes(set).await?;
        set.stage.healthy(&[BUILD], LIMIT).await.map_err(failed)?;
        let done = set.stage.actions_since(BUILD, &since).await.map_err(failed)?;
        ensure(done.len() == 2 && done.iter().all(|action| action.spec.subject == "echo"), || {
            format!("{} steps were done", done.len())
        })?;
        // What is no longer described is left as it is.
        set.apply("Enforce").await?;
        set.calm(LIMIT).await?;
        echoes(set).await?;
        host.script_as_user("pm2 delete echo", &[]).await.map_err(failed)?;
        Ok(())
    }));
    trials.push(trial(place, "described::the_management_host_and_odd_names_are_described_like_any_other", async |set| {
        let host = set.stage.lab.host(MANAGEMENT).map_err(failed)?;
        host.script("hostname Binder-API.Old", &[]).await.map_err(failed)?;
        let program = "cat >/home/andrew/Echo_1.js <<'END'\nrequire('net').createServer(s => s.end('echo\\n')).listen(7777)\nEND\n";
        host.script_as_user(program, &[]).await.map_err(failed)?;
        let status = set.stage.lab.status().map_err(failed)?;
        let mut file = owner::file(&status, "Enforce");
        for host in file["spec"]["hosts"].as_array_mut().into_iter().flatten().filter(|host| host["name"] == MANAGEMENT) {
            host["processes"] = json!([{
                "name": "Echo_1.A",
                "start": ["pm2", "start", "/home/andrew/Echo_1.js", "--name", "Echo_1.A"],
                "ports": [7777],
            }]);
            host["disks"] = json!([{"path": "/"}]);
            host["portRedirects"] = json!([{"interface": "eth0", "from": 79, "to": 7777}]);
        }
        set.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
        set.stage.healthy(&[MANAGEMENT], LIMIT).await.map_err(failed)?;
        // Through the redirect, from another machine: the computer that the lab is on.
        let echo = || acts::world::connects(&set.stage, MANAGEMENT, 79);
        set.stage.until("79 leads to the process", LIMIT, echo).await.map_err(failed)?;
        set.apply("Enforce").await?;
        set.stage.healthy(&[MANAGEMENT], LIMIT).await.map_err(failed)?;
        host.script_as_user("pm2 delete Echo_1.A", &[]).await.map_err(failed)?;
        Ok(())
    }));
    trials.push(trial(place, "described::a_server_and_a_service_are_stopped_and_started_by_the_spec", async |set| {
        // Against the profile, which goes on describing it as running; and by its pm2 name. One after the other, and not for
        // long: without the log collector, every server ends after a while.
        let cases = [
            (WEB, "health", json!({"stopped": ["health"]}), "8086", "binder-health-checker"),
            (
                SERVICES,
                "logging",
                json!({"services": ["db"], "stopped": ["binder-logging-service"]}),
                "8050",
                "binder-logging-service",
            ),
        ];
        for (name, subject, described, port, process) in cases {
            let since = set.stage.mark(name).await.map_err(failed)?;
            let mut file = owner::file(&set.stage.lab.status().map_err(failed)?, "Enforce");
            let hosts = file["spec"]["hosts"].as_array_mut().into_iter().flatten();
            for host in hosts.filter(|host| host["name"] == name) {
                for (field, value) in described.as_object().into_iter().flatten() {
                    host[field] = value.clone();
                }
            }
            set.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
            let stopped = set.stage.condition(name, conditions::SERVICES_STOPPED, "True", None, LIMIT).await;
            stopped.map_err(failed)?;
            let host = set.stage.lab.host(name).map_err(failed)?;
            host.script("! ss -ltnH \"sport = :$1\" | grep .", &[port]).await.map_err(failed)?;
            let gone = "! pm2 jlist | grep -F \"\\\"name\\\":\\\"$1\"";
            host.script_as_user(gone, &[process]).await.map_err(failed)?;
            let done = set.stage.actions_since(name, &since).await.map_err(failed)?;
            let first =
                done.iter().find(|action| action.spec.subject == subject).map(|action| action.spec.step.as_str());
            ensure(first == Some("StopProcess"), || format!("{subject}: {first:?} came first"))?;
        }
        set.apply("Enforce").await?;
        set.all_healthy(LIMIT).await?;
        let web = set.stage.lab.host(WEB).map_err(failed)?;
        web.script("ss -ltnH 'sport = :8086' | grep -q .", &[]).await.map_err(failed)?;
        Ok(())
    }));
    trials.push(trial(place, "described::a_host_written_by_hand_is_governed_and_left_to_its_writer", async |set| {
        let status = set.stage.lab.status().map_err(failed)?;
        let master = status.host(MASTER).ok_or("the lab has no master")?;
        let by_hand = json!({
            "apiVersion": format!("{}/v1alpha1", binder_crds::GROUP),
            "kind": "BinderHost",
            "metadata": {"name": "by-hand", "namespace": NAMESPACE, "labels": {"team": "binder"}},
            "spec": {"address": master.address.to_string(), "hostKeys": [master.host_key]},
        });
        set.stage.kubectl.apply(&by_hand.to_string()).await.map_err(failed)?;
        // Nobody says how to log in: a person is told what to do.
        let lost = set.stage.condition("by-hand", conditions::STALLED, "True", Some("NoAccess"), LIMIT).await;
        let lost = lost.map_err(failed)?;
        ensure(lost.message.contains("hostSelector"), || lost.message)?;
        // The fleet selects it: the login and the mode are the fleet's now, the object stays its writer's.
        // Two hosts of one fleet are two machines, so it lists this one no more.
        let mut file = owner::file(&status, "Enforce");
        if let Some(hosts) = file["spec"]["hosts"].as_array_mut() {
            hosts.retain(|host| host["name"] != MASTER);
        }
        file["spec"]["hostSelector"] = json!({"matchLabels": {"team": "binder"}});
        set.stage.kubectl.apply(&file.to_string()).await.map_err(failed)?;
        set.stage.healthy(&["by-hand"], LIMIT).await.map_err(failed)?;
        let counted = || async {
            let fleet = set.stage.fleets().get(owner::FLEET).await.map_err(|error| error.to_string())?;
            let hosts = fleet.status.unwrap_or_default().hosts;
            if hosts as usize == status.hosts.len() { Ok(()) } else { Err(format!("{hosts} hosts")) }
        };
        set.stage.until("the fleet counts it", LIMIT, counted).await.map_err(failed)?;
        let object = set.stage.host("by-hand").await.map_err(failed)?;
        ensure(object.spec.access.is_none() && object.metadata.owner_references.is_none(), || {
            "the fleet has written into a host that is not its own".to_owned()
        })?;
        // A fleet that lists the same name says that it is taken, and leaves it alone.
        let mut clash = file.clone();
        if let Some(hosts) = clash["spec"]["hosts"].as_array_mut() {
            let mut other = owner::member(master);
            other["name"] = json!("by-hand");
            hosts.push(other);
        }
        set.stage.kubectl.apply(&clash.to_string()).await.map_err(failed)?;
        let said = || async {
            let fleet = set.stage.fleets().get(owner::FLEET).await.map_err(|error| error.to_string())?;
            let conditions = fleet.status.unwrap_or_default().conditions;
            let taken = conditions.iter().any(|condition| condition.reason == "HostNameTaken");
            if taken { Ok(()) } else { Err(format!("{conditions:?}")) }
        };
        set.stage.until("the fleet says that the name is taken", LIMIT, said).await.map_err(failed)?;
        set.apply("Enforce").await?;
        set.stage.kubectl.run(&["-n", NAMESPACE, "delete", "bh", "by-hand"]).await.map_err(failed)?;
        set.all_healthy(LIMIT).await
    }));
    trials.push(trial(place, "described::no_secret_is_in_what_anybody_can_read", async |set| {
        no_secret_is_shown(set).await
    }));
}

/// Neither the API key nor the login key is in anything that others than their owners can read.
pub(crate) async fn no_secret_is_shown(set: &Set) -> Outcome {
    let status = set.stage.lab.status().map_err(failed)?;
    let key = std::fs::read_to_string(&status.api_key_file).map_err(failed)?.trim().to_owned();
    let mut places = vec![("the operator's log".to_owned(), set.stage.operator_log().map_err(failed)?)];
    places.push(("/metrics".to_owned(), set.stage.operator_says("/metrics").await.map_err(failed)?));
    let objects = set.stage.kubectl.run(&["-n", NAMESPACE, "get", "bf,bh,ba,events", "-o", "yaml"]).await;
    places.push(("the objects and events".to_owned(), objects.map_err(failed)?));
    for host in ["binder-web-deploy", BUILD] {
        let host = set.stage.lab.host(host).map_err(failed)?;
        let processes = host.script("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", &[]).await.map_err(failed)?;
        places.push((format!("the arguments of {}'s processes", host.name()), processes));
        places.push((
            format!("what {}'s sshd was asked", host.name()),
            host.asked_over_ssh().map_err(failed)?.join("\n"),
        ));
    }
    for (place, text) in &places {
        ensure(!text.is_empty(), || format!("{place}: nothing was read"))?;
        // The key itself is not in the failure's text.
        ensure(!text.contains(&key), || format!("the API key is in {place}"))?;
    }
    let login = std::fs::read_to_string(set.stage.lab.layout().login_key()).map_err(failed)?;
    let body = login.lines().nth(1).unwrap_or("no key").to_owned();
    ensure(body.len() > 20, || format!("the Secret {LOGIN_SECRET} holds no key"))?;
    for (place, text) in &places {
        ensure(!text.contains(&body), || format!("the login key is in {place}"))?;
    }
    Ok(())
}

async fn echoes(set: &Set) -> Outcome {
    let look = || async {
        let said = set.says(BUILD, 7777).await?;
        if said.contains("echo") { Ok(()) } else { Err(said) }
    };
    set.stage.until("7777 echoes", LIMIT, look).await.map_err(failed)
}
