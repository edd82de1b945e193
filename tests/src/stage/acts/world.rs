//! Looks at the world, past the operator. Each says what it saw, or as an error what is not so yet.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Api;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::cluster::kubeconfig;
use crate::faults::apps::{LIST_ROUTES, LIVE, STALE};
use crate::faults::database;
use crate::http::Request;
use crate::stage::{API_KEY_SECRET, NAMESPACE, Stage, owner};

/// Asks the kubectl proxy for the namespace that every cluster has, from the host itself: it listens on loopback only. A
/// static busybox has a wget, which crashes here.
const ASK_PROXY: &str = "exec 3<>/dev/tcp/127.0.0.1/8085; \
    printf 'GET /api/v1/namespaces/kube-system HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; cat <&3";

/// Two rounds of the health checker, which takes 40 s for each.
const TWO_ROUNDS: Duration = Duration::from_secs(85);

fn text(error: &dyn std::error::Error) -> String {
    crate::said(error)
}

/// The web page is served on 3000.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn page(stage: &Stage) -> Result<String, String> {
    let at = address(stage, "binder-web-deploy", 3000)?;
    let page = Request::get("/").text(at).await.map_err(|error| text(&error))?;
    if page.contains("<html") { Ok(format!("{at} serves the page")) } else { Err("no page".to_owned()) }
}

/// The kubectl proxy leads to the cluster.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn proxy(stage: &Stage) -> Result<String, String> {
    let host = stage.lab.host("binder-web-deploy").map_err(|error| text(&error))?;
    let answer = host.exec(&["timeout", "5", "bash", "-c", ASK_PROXY]).await.map_err(|error| text(&error))?;
    let identity = stage.lab.status().map_err(|error| text(&error))?.cluster_id;
    let identity = identity.ok_or_else(|| "the lab has no cluster".to_owned())?;
    if answer.stdout.contains("\"kube-system\"") && answer.stdout.contains(&identity) {
        Ok("8085 leads to the cluster on kubernetes-master".to_owned())
    } else {
        Err(answer.said())
    }
}

/// The redirect is there exactly once, and port 80 serves the page to other machines.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn redirect_once(stage: &Stage) -> Result<String, String> {
    let host = stage.lab.host("binder-web-deploy").map_err(|error| text(&error))?;
    let rules =
        host.exec(&["iptables", "-w", "5", "-t", "nat", "-S", "PREROUTING"]).await.map_err(|error| text(&error))?;
    let count = rules.stdout.lines().filter(|line| line.contains("--dport 80 ")).count();
    if count != 1 {
        return Err(format!("the rule is there {count} times"));
    }
    let at = address(stage, "binder-web-deploy", 80)?;
    let page = Request::get("/").text(at).await.map_err(|error| text(&error))?;
    if !page.contains("<html") {
        return Err("port 80 serves something else than the page".to_owned());
    }
    Ok(format!("the rule is there once, and {at} serves the page"))
}

/// One `deploy-kubernetes` and one daemon under pm2, and an app can be deployed and reached.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn deploy(stage: &Stage) -> Result<String, String> {
    let rows = table(stage, "binder-web-deploy").await?;
    let count = |name: &str| rows.iter().filter(|row| row["name"] == name).count();
    let counts = (count("binder-deploy-kubernetes-start"), count("binder-kubernetes-daemon"));
    if counts != (1, 1) {
        return Err(format!("pm2 holds {} of the server and {} daemons", counts.0, counts.1));
    }
    let binder = stage.lab.binder().map_err(|error| text(&error))?;
    let id = binder.deploy_app().await.map_err(|error| text(&error))?;
    Ok(format!("one server and one daemon; app {id} was deployed and is reached by its route"))
}

/// Counts documents as Binder's servers would ask, from another machine than the database's.
const QUERY: &str = r#"
NODE_PATH=/usr/local/lib/binder/node_modules exec timeout 10 node -e '
  const { MongoClient } = require("mongodb")
  const settings = JSON.parse(require("fs").readFileSync(process.env.HOME + "/.binder/db.conf", "utf8"))
  const uri = `mongodb://${settings.host}:${settings.port}/${settings.db}`
  const client = new MongoClient(uri, { useUnifiedTopology: true, serverSelectionTimeoutMS: 5000 })
  client.connect().then(() => client.db().collection("templates").countDocuments())
    .then((count) => { console.log(count); process.exit(0) }, (error) => { console.error(String(error)); process.exit(1) })
'
"#;

/// How long nothing may have been restarted to be called still. Without its database a server lasts some seconds at most.
const STILL: Duration = Duration::from_secs(8);

/// The database answers a query from another machine, every server listens, and pm2 restarts none of them any more.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn database(stage: &Stage) -> Result<String, String> {
    let last = last_check(stage).await?;
    let web = stage.lab.host("binder-web-deploy").map_err(|error| text(&error))?;
    let count = web.script_as_user(QUERY, &[]).await.map_err(|error| text(&error))?;
    for (host, port) in [
        ("binder-web-deploy", 3000),
        ("binder-web-deploy", 8084),
        ("binder-web-deploy", 8086),
        ("binder-tester-2", 8082),
    ] {
        connects(stage, host, port).await?;
    }
    let before = restarts(stage).await?;
    tokio::time::sleep(STILL).await;
    let after = restarts(stage).await?;
    if before != after {
        return Err(format!("restarts went on: {before:?}, then {after:?}"));
    }
    checks_after(stage, last).await?;
    Ok(format!(
        "the database answers with {} templates, and nothing was restarted in {} s",
        count.trim(),
        STILL.as_secs()
    ))
}

/// The web page is served, and pm2 restarts its server no more.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn still_page(stage: &Stage) -> Result<String, String> {
    let before = restarts(stage).await?;
    tokio::time::sleep(STILL).await;
    if before != restarts(stage).await? {
        return Err("restarts went on".to_owned());
    }
    Ok(format!("{}, and nothing was restarted in {} s", page(stage).await?, STILL.as_secs()))
}

/// Every process of pm2 on the hosts with servers, with its restarts. Without `binder-kubernetes-proxy`, which cannot listen
/// where a kubectl proxy runs by hand, and which pm2 starts again for ever when that takes it longer than a second.
async fn restarts(stage: &Stage) -> Result<Vec<(String, u64)>, String> {
    let mut all = Vec::new();
    for host in ["binder-web-deploy", "binder-tester-2"] {
        for row in table(stage, host).await? {
            let name = row["name"].as_str().unwrap_or_default().to_owned();
            if name == "binder-kubernetes-proxy" {
                continue;
            }
            all.push((name, row["pm2_env"]["restart_time"].as_u64().unwrap_or_default()));
        }
    }
    Ok(all)
}

/// The log collector takes connections.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn logging(stage: &Stage) -> Result<String, String> {
    connects(stage, "binder-services", 8050).await.map(|()| "8050 takes connections".to_owned())
}

/// A port takes connections from this computer.
///
/// # Errors
/// It does not.
pub async fn connects(stage: &Stage, host: &str, port: u16) -> Result<(), String> {
    let at = address(stage, host, port)?;
    match tokio::time::timeout(Duration::from_secs(3), TcpStream::connect(at)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{at}: {error}")),
        Err(_) => Err(format!("{at}: no answer")),
    }
}

/// pm2's table on a host.
///
/// # Errors
/// It could not be had.
pub async fn table(stage: &Stage, host: &str) -> Result<Vec<Value>, String> {
    let host = stage.lab.host(host).map_err(|error| text(&error))?;
    let table = host.exec_as_user(&["pm2", "jlist"]).await.map_err(|error| text(&error))?;
    table
        .stdout
        .lines()
        .rfind(|line| line.starts_with('['))
        .and_then(|line| serde_json::from_str(line).ok())
        .ok_or_else(|| "no table of pm2".to_owned())
}

/// The disk is below its threshold.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn disk_below(stage: &Stage) -> Result<String, String> {
    let host = stage.lab.host("binder-tester-2").map_err(|error| text(&error))?;
    let df = host.exec(&["df", "-P", owner::DISK]).await.map_err(|error| text(&error))?;
    let used = df
        .stdout
        .split_whitespace()
        .find_map(|word| word.strip_suffix('%').and_then(|percent| percent.parse::<u8>().ok()))
        .ok_or_else(|| df.said())?;
    if used > 85 {
        return Err(format!("{used} %"));
    }
    untouched(stage).await?;
    Ok(format!("{} is at {used} %, and what is in use, young or kept is there", owner::DISK))
}

/// What no clean-up may touch is there as it was.
async fn untouched(stage: &Stage) -> Result<(), String> {
    let host = stage.lab.host("binder-tester-2").map_err(|error| text(&error))?;
    host.script(crate::faults::UNTOUCHED, &[]).await.map(|_| ()).map_err(|error| text(&error))
}

/// Starts the container that ended with Docker, runs another and builds an image, as Binder's build server would: through
/// the daemon.
const WORK: &str = r#"
[ ! -e /home/andrew/.dockercfg ]
docker start binder-lab-running >/dev/null
docker run --rm --net none binder-lab-young:1 /busybox true
folder=$(mktemp -d /tmp/build.XXXXXX)
printf 'FROM binder-lab-young:1\nRUN ["/busybox", "touch", "/made"]\n' > "$folder/Dockerfile"
DOCKER_BUILDKIT=0 docker build --quiet --network none --tag binder-lab-built:1 "$folder"
docker image rm binder-lab-built:1 >/dev/null
rm -r "$folder"
"#;

/// Docker starts containers and builds images, nothing of use is lost, and the empty login file is gone.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn docker_works(stage: &Stage) -> Result<String, String> {
    let host = stage.lab.host("binder-tester-2").map_err(|error| text(&error))?;
    host.script(WORK, &[]).await.map_err(|error| text(&error))?;
    let below = disk_below(stage).await?;
    Ok(format!("a container ran, an image was built; {below}"))
}

/// Succeeds when nothing is left of what the clean-up is for.
const LITTER_GONE: &str = "! docker image ls --all --quiet binder-lab-litter | grep . && ! docker container inspect binder-lab-stopped >/dev/null 2>&1";

/// Old images that nothing used and the stopped container are gone; what is in use, young or kept is not.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn litter_gone(stage: &Stage) -> Result<String, String> {
    let host = stage.lab.host("binder-tester-2").map_err(|error| text(&error))?;
    host.script(LITTER_GONE, &[]).await.map_err(|error| text(&error))?;
    untouched(stage).await?;
    Ok("what nothing used is gone, and what is in use, young or kept is there".to_owned())
}

/// The build that hung has been built again, and the new build has come to an end that the build server wrote.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn built_again(stage: &Stage) -> Result<String, String> {
    let row = stage.lab.database("build", &[database::HUNG_BUILD]).await.map_err(|error| text(&error))?;
    let (status, since) = (row["status"].as_str().unwrap_or_default(), row["startTime"].to_string());
    let old = since.contains("1464768000000");
    match status {
        "completed" | "failed" if !old => Ok(format!("the build server built it again: {status}")),
        _ => Err(format!("{status} since {since}")),
    }
}

/// The build that was there first is what it was, whatever was done about its double.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn names_told_apart(stage: &Stage) -> Result<String, String> {
    let name = database::CASED_BUILD.to_lowercase();
    let row = stage.lab.database("build", &[&name]).await.map_err(|error| text(&error))?;
    match row["status"].as_str() {
        Some("completed") if row.get("error").is_none() => Ok(format!("{name} is completed, as it was")),
        _ => Err(row.to_string()),
    }
}

/// Where a host's port is, seen from this computer.
///
/// # Errors
/// The lab has no such host.
pub fn address(stage: &Stage, host: &str, port: u16) -> Result<SocketAddr, String> {
    let status = stage.lab.status().map_err(|error| crate::said(&error))?;
    let host = status.host(host).ok_or_else(|| format!("the lab has no {host}"))?;
    Ok(SocketAddr::from((host.address, port)))
}

/// The database's port takes connections from the web and deploy server.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn database_reached(stage: &Stage) -> Result<String, String> {
    const OPEN: &str = "timeout 3 bash -c 'exec 3<>/dev/tcp/$0/9050' \"$1\"";
    let last = last_check(stage).await?;
    let at = address(stage, "binder-services", 9050)?;
    let host = stage.lab.host("binder-web-deploy").map_err(|error| text(&error))?;
    host.script(OPEN, &[&at.ip().to_string()]).await.map_err(|error| text(&error))?;
    checks_after(stage, last).await?;
    Ok(format!("binder-web-deploy reaches {at}"))
}

/// The stale routes are gone from Binder's proxy, and the one whose namespace is there is not.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn live_routes_only(stage: &Stage) -> Result<String, String> {
    let routed = routed(stage).await?;
    let there = |id: &str| routed.iter().any(|routed| routed == id);
    if let Some(id) = STALE.iter().find(|id| there(id)) {
        return Err(format!("the route of {id} is there"));
    }
    if !there(LIVE) {
        return Err(format!("the live route of {LIVE} is gone"));
    }
    Ok(format!("none of the {} stale routes is there, the live one is", STALE.len()))
}

/// The ids of the apps that Binder's proxy has a route to.
async fn routed(stage: &Stage) -> Result<Vec<String>, String> {
    let host = stage.lab.host("binder-web-deploy").map_err(|error| text(&error))?;
    let routes = host.script_as_user(LIST_ROUTES, &[]).await.map_err(|error| text(&error))?;
    Ok(routes.lines().filter_map(|path| path.strip_prefix("/user/")).map(str::to_owned).collect())
}

/// Every route of Binder's proxy leads to an app whose namespace is there.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn no_stale_routes(stage: &Stage) -> Result<String, String> {
    // In this order: a namespace is there before its route.
    let apps = routed(stage).await?;
    let host = stage.lab.host("binder-web-deploy").map_err(|error| text(&error))?;
    let list = "~/kubernetes/cluster/kubectl.sh get namespaces -o name";
    let namespaces = host.script_as_user(list, &[]).await.map_err(|error| text(&error))?;
    let namespaces: Vec<&str> = namespaces.lines().filter_map(|name| name.strip_prefix("namespace/")).collect();
    match apps.iter().find(|id| !namespaces.contains(&id.as_str())) {
        Some(id) => Err(format!("the route of {id} is there, and its namespace is gone")),
        None => Ok(format!("{} routes, each with its namespace", apps.len())),
    }
}

/// Our login is let in again on the services' machine, in the same boot; others' keys are there as they were.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn let_in(stage: &Stage) -> Result<String, String> {
    let host = stage.lab.host("binder-services").map_err(|error| text(&error))?;
    crate::faults::let_in_again(&stage.lab, &host).await.map_err(|error| text(&error))?;
    Ok("our key is in the instance's metadata beside the others', the login works, and the boot is the same".to_owned())
}

/// The Secret has the API key with which the servers were started, and a server takes it.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn key_is_back(stage: &Stage) -> Result<String, String> {
    let api = Api::<Secret>::namespaced(stage.client(), NAMESPACE);
    let secret = api.get_opt(API_KEY_SECRET).await.map_err(|error| text(&error))?;
    let secret = secret.ok_or_else(|| format!("there is no Secret {API_KEY_SECRET}"))?;
    let held = secret.data.as_ref().and_then(|data| data.get("api-key")).map(|value| value.0.clone());
    let file = stage.lab.status().map_err(|error| text(&error))?.api_key_file;
    let key = crate::files::read(&file).map_err(|error| text(&error))?;
    // Compared and not shown.
    if held.as_deref() != Some(key.trim().as_bytes()) {
        return Err(format!("the Secret {API_KEY_SECRET} holds something else"));
    }
    Ok(format!("the Secret {API_KEY_SECRET} holds the same key; {}", build_takes_the_key(stage).await?))
}

/// The build server takes the one API key.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn build_takes_the_key(stage: &Stage) -> Result<String, String> {
    let at = address(stage, "binder-tester-2", 8082)?;
    let file = stage.lab.status().map_err(|error| text(&error))?.api_key_file;
    let key = crate::files::read(&file).map_err(|error| text(&error))?;
    Request::get("/builds/").authorized(key.trim()).json(at).await.map_err(|error| text(&error))?;
    Ok(format!("{at} gives its builds to the one key"))
}

/// `/health/` says `running` of both, and said so a moment ago.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn health_is_fresh(stage: &Stage) -> Result<String, String> {
    let binder = stage.lab.binder().map_err(|error| text(&error))?;
    let health = binder.health().await.map_err(|error| text(&error))?;
    let entries = health.as_array().map(Vec::as_slice).unwrap_or_default();
    let fresh = |entry: &Value| {
        let at = entry["timestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        at.is_some_and(|at| jiff::Timestamp::now().duration_since(at).as_secs() < 80)
    };
    if entries.len() == 2 && entries.iter().all(|entry| entry["status"] == "running" && fresh(entry)) {
        Ok("/health/ says running of deploy and build, less than 80 s ago".to_owned())
    } else {
        Err(health.to_string())
    }
}

/// Every host is as described, Binder's own `/health/` says that all is running, and an app can be deployed and reached.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn fleet(stage: &Stage) -> Result<String, String> {
    let hosts = stage.hosts().list(&Default::default()).await.map_err(|error| text(&error))?.items;
    for host in &hosts {
        let status = host.status.clone().unwrap_or_default();
        if status.summary != "As described." {
            return Err(format!("{}: {}", host.metadata.name.as_deref().unwrap_or_default(), status.summary));
        }
    }
    let binder = stage.lab.binder().map_err(|error| text(&error))?;
    binder.healthy().await.map_err(|error| text(&error))?;
    deploy(stage).await
}

/// As [`fleet`], after an outage of the database.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn fleet_that_checks(stage: &Stage) -> Result<String, String> {
    let last = last_check(stage).await?;
    let seen = fleet(stage).await?;
    checks_after(stage, last).await?;
    Ok(seen)
}

/// Every node is Ready, the whole fleet is as described, and Binder's own `/health/` says that all is running.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn cluster_and_health(stage: &Stage) -> Result<String, String> {
    let ready = nodes(stage).await?;
    Ok(format!("{ready}; {}", fleet(stage).await?))
}

/// The time of the newest of Binder's own verdicts in `/health/`.
async fn last_check(stage: &Stage) -> Result<Option<String>, String> {
    let binder = stage.lab.binder().map_err(|error| text(&error))?;
    let health = binder.health().await.map_err(|error| text(&error))?;
    let times = health.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(times.iter().filter_map(|entry| entry["timestamp"].as_str().map(str::to_owned)).max())
}

/// Binder's health checker goes its rounds: `/health/` has a verdict that is newer than one seen when the database was back already.
/// It stops for good after one failed connection to its database, which shows only when its last word has grown old.
async fn checks_after(stage: &Stage, last: Option<String>) -> Result<(), String> {
    let later = || async {
        let now = last_check(stage).await?;
        if now > last { Ok(()) } else { Err(format!("still {now:?}")) }
    };
    stage.until("a later check", TWO_ROUNDS, later).await.map_err(|error| text(&error))
}

/// Every node of the cluster is Ready.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn nodes(stage: &Stage) -> Result<String, String> {
    let config =
        stage.lab.status().map_err(|error| text(&error))?.cluster_kubeconfig.ok_or("the lab has no cluster")?;
    let client = kubeconfig::client(&config).await.map_err(|error| text(&error))?;
    let nodes = Api::<Node>::all(client).list(&Default::default()).await.map_err(|error| text(&error))?.items;
    let ready = |node: &&Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
    };
    let count = nodes.iter().filter(ready).count();
    if count == nodes.len() {
        Ok(format!("{count} nodes are Ready"))
    } else {
        Err(format!("{count} of {}", nodes.len()))
    }
}
