//! Faults of Binder's own status: a server with another API key, a health checker that is wrong or silent.

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::binder::DELETE;
use super::{Act, Fault, FaultError, Healer, RUNNING, Site, Target, runs, shows, unseen};
use crate::cluster::kubeconfig;
use crate::files;
use crate::host::enter::HostError;
use crate::http::Request;
use crate::inventory::{Role, USER};
use crate::stage::{API_KEY_SECRET, NAMESPACE};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "key-mismatch",
        does: "the build server runs with another API key than all others, and answers 403 to theirs",
        healed_by: Healer::Operator,
        target: Target::The(Role::Build),
        inflict: OTHER_KEY,
        undo: None,
    },
    Fault {
        name: "key-unknown",
        does: "somebody has deleted the Secret with the API key; the servers run on with it",
        healed_by: Healer::Operator,
        target: Target::The(Role::Build),
        inflict: LOSE_KEY,
        undo: None,
    },
    Fault {
        name: "status-stale",
        does: "the health checker stops where it stands, and its last word is ten minutes old; pm2 says online",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: STALE,
        undo: None,
    },
    Fault {
        name: "status-wrong",
        does: "the health checker was started while health.conf named other ports, and says that build and deploy are down, \
               which work",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: WRONG,
        undo: None,
    },
];

const OTHER_KEY: Act = |site| Box::pin(unseen(site, other_key(site)));
const LOSE_KEY: Act = |site| Box::pin(lose_key(site));
const STALE: Act = |site| Box::pin(unseen(site, stale(site)));
const WRONG: Act = |site| Box::pin(unseen(site, wrong(site)));

/// A key that is nobody's.
const ANOTHER: &str = "0123456789abcdef0123456789abcdef";

/// Starts the server `$1` with the key from standard input.
const START: &str = "IFS= read -r BINDER_API_KEY; export BINDER_API_KEY; exec binder-control \"$1\" start";

async fn other_key(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script_as_user(DELETE, &["binder-build-start"]).await?;
    let run = site.host.entering(USER, &["sh", "-uc", START, "script", "build"])?.stdin(format!("{ANOTHER}\n"));
    run.output().await.map_err(|source| HostError::Command { host: site.host.name().to_owned(), source })?;
    let status = site.lab.status()?;
    let key = files::read(&status.api_key_file)?.trim().to_owned();
    let at = std::net::SocketAddr::from((site.host.status()?.address, 8082));
    let refused = |_| {
        let key = key.clone();
        async move {
            match Request::get("/builds/").authorized(&key).send(at).await {
                Ok(answer) if answer.status == 403 => Ok(()),
                Ok(answer) => Err(format!("HTTP {}", answer.status)),
                Err(error) => Err(crate::said(&error)),
            }
        }
    };
    Ok(site.host.until("the build server answers 403", super::SHOWS, refused).await?)
}

async fn lose_key(site: Site<'_>) -> Result<(), FaultError> {
    let client = kubeconfig::client(&site.lab.status()?.kubeconfig).await?;
    let secrets = kube::Api::<Secret>::namespaced(client, NAMESPACE);
    let failed = |source| FaultError::Api { what: format!("the Secret {API_KEY_SECRET}"), source: Box::new(source) };
    let was = secrets.get(API_KEY_SECRET).await.map_err(failed)?.metadata.uid;
    secrets.delete(API_KEY_SECRET, &kube::api::DeleteParams::default()).await.map_err(failed)?;
    // Whoever heals it may have been as fast: then it is another one.
    match secrets.get_opt(API_KEY_SECRET).await.map_err(failed)? {
        Some(there) if there.metadata.uid == was => Err(FaultError::NothingToBreak {
            host: site.host.name().to_owned(),
            what: format!("the Secret {API_KEY_SECRET} is there after it was deleted"),
        }),
        _ => Ok(()),
    }
}

/// The health checker's name in pm2.
const CHECKER: &str = "binder-health-checker";

/// Sets the checker's last words back by ten minutes, as if it had stopped then.
const SET_BACK: &str = r#"
NODE_PATH=/usr/local/lib/binder/node_modules exec node -e '
  const { MongoClient } = require("mongodb")
  const db = JSON.parse(require("fs").readFileSync(process.env.HOME + "/.binder/db.conf", "utf8"))
  const main = async () => {
    const client = new MongoClient(`mongodb://${db.host}:${db.port}/${db.db}`, { useUnifiedTopology: true })
    await client.connect()
    const timestamp = new Date(Date.now() - 600000)
    await client.db().collection("health").updateMany({}, { $set: { timestamp } })
    await client.close()
  }
  main().catch((error) => { console.error(String(error)); process.exit(1) })
'
"#;

async fn stale(site: Site<'_>) -> Result<(), FaultError> {
    runs(site.host, CHECKER, None).await?;
    // It sets its own title, which the kernel cuts: its pid is pm2's to tell.
    let pid = site.host.script_as_user(RUNNING, &[CHECKER]).await?;
    site.host.script_as_user("kill -STOP \"$1\"", &[pid.trim()]).await?;
    site.host.script_as_user(SET_BACK, &[]).await?;
    said(site, "the health checker's last word is old", |entry| {
        at(entry).is_some_and(|at| jiff::Timestamp::now().duration_since(at).as_secs() > 500)
    })
    .await
}

/// Restarts the checker while its settings name ports where nobody listens. Prints the moment in which it did not run, in
/// milliseconds since 1970: a verdict from then on is of the one that was misled.
const MISLEAD: &str = r#"
cd ~/.binder
cp health.conf health.conf.kept
sed -e 's/"port": *8082/"port": 1/g' -e 's/"port": *8084/"port": 1/g' health.conf.kept >health.conf
pm2 stop binder-health-checker >/dev/null
date +%s%3N
pm2 restart binder-health-checker >/dev/null
"#;
/// Puts the settings back: what runs has read the others.
const RIGHT_SETTINGS: &str = "cd ~/.binder; [ ! -e health.conf.kept ] || mv health.conf.kept health.conf";

async fn wrong(site: Site<'_>) -> Result<(), FaultError> {
    runs(site.host, CHECKER, None).await?;
    let misled = async {
        let stopped = site.host.script_as_user(MISLEAD, &[]).await?;
        let stopped = stopped.trim().parse::<i64>().unwrap_or(i64::MAX);
        // What was down a moment ago, and works now, is said to be down until the next round: that would be no proof that this one
        // has read what it was to read.
        said(site, "/health/ says down, in the words of the checker that was misled", |entry| {
            entry["status"] == "down" && at(entry).is_some_and(|at| at.as_millisecond() >= stopped)
        })
        .await
    };
    let misled = misled.await;
    // Whatever came of it: no other server may read these.
    site.host.script_as_user(RIGHT_SETTINGS, &[]).await?;
    misled?;
    shows(site.host, "the settings are right again", "grep -q 8084 /home/andrew/.binder/health.conf", &[]).await
}

/// When a verdict was written.
fn at(verdict: &Value) -> Option<jiff::Timestamp> {
    verdict["timestamp"].as_str()?.parse().ok()
}

/// Waits until every verdict in `/health/` is so.
async fn said(site: Site<'_>, what: &str, so: impl Fn(&Value) -> bool) -> Result<(), FaultError> {
    let so = &so;
    let look = |_| async move {
        let health = async { site.lab.binder()?.health().await };
        let health = health.await.map_err(|error| crate::said(&error))?;
        let entries = health.as_array().map(Vec::as_slice).unwrap_or_default();
        if entries.len() >= 2 && entries.iter().all(so) { Ok(()) } else { Err(health.to_string()) }
    };
    Ok(site.host.until(what, super::SHOWS, look).await?)
}
