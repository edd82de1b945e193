//! A lab with an operator in it, set as an owner would set it: the chart's definitions and rights, the Secrets, the
//! owner's file, and this checkout's operator acting as the chart's service account and as nobody else.
//!
//! What the demo shows and what the scenarios test runs on this. Knows what a person knows: objects, `kubectl`, and the
//! lab's hosts seen from outside. Must not know anything of the operator's inside.

pub mod acts;
pub mod kubectl;
pub mod operator;
pub mod owner;
mod staying;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use binder_crds::{BinderAction, BinderFleet, BinderHost};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::config::Kubeconfig;
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cgroup::{Cgroup, CgroupError};
use crate::cluster::audit::AuditError;
use crate::cluster::kubeconfig::{self, AccessError};
use crate::command::{CommandError, Run};
use crate::faults::FaultError;
use crate::files::{self, FileError};
use crate::host::enter::HostError;
use crate::lab::{Lab, LabError};
use crate::tools::progress::{Lines, Progress};
use crate::tools::{ToolError, Tools};
use kubectl::Kubectl;
use operator::{Operator, OperatorError};

/// The namespace of the owner's objects.
pub const NAMESPACE: &str = "binder";
/// The namespace of the operator itself.
pub const SYSTEM: &str = "binder-system";
/// The Helm release, which names the service account.
const RELEASE: &str = "binder-operator";
/// The Secret with the login key.
pub const LOGIN_SECRET: &str = "binder-ssh";
/// The Secret with the API key.
pub const API_KEY_SECRET: &str = "binder-api-key";
/// The Secret with the key of the operator's account in the cloud.
pub const CLOUD_SECRET: &str = "gce";
/// How long the operator's token lives; longer than any test.
const TOKEN: Duration = Duration::from_secs(6 * 3600);

/// Something about the stage did not work.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A fault.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// A program that is needed could not be built.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A control group.
    #[error(transparent)]
    Group(#[from] CgroupError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The API server could not be reached as somebody.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The operator could not be built, started or ended.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// A kubeconfig could not be written down.
    #[error("cannot write a kubeconfig")]
    Json(#[from] serde_json::Error),
    /// The API said no.
    #[error("cannot read {what}")]
    Api {
        /// What.
        what: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// Something did not become so.
    #[error("{what}: not within {} s; last seen: {seen}", limit.as_secs())]
    Never {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What was seen last.
        seen: String,
    },
}

/// The attempts that were recorded of a host at some moment.
#[derive(Debug, Clone, Default)]
pub struct Mark(BTreeSet<String>);

/// A lab with an operator in it.
pub struct Stage {
    /// The lab.
    pub lab: Lab,
    /// `kubectl` as the owner uses it.
    pub kubectl: Kubectl,
    client: Client,
    operator_kubeconfig: PathBuf,
    program: PathBuf,
    /// Where the stand-in for the cloud is.
    cloud: String,
    operator: Option<Operator>,
}

impl Stage {
    /// Sets the stage in a lab that is up: definitions and rights from the chart as real Helm renders it, namespaces,
    /// Secrets. The operator is built, and not started yet.
    ///
    /// # Errors
    /// Some part did not work; the error says which and what it said.
    pub async fn set(lab: Lab, mut tell: impl FnMut(&str)) -> Result<Self, StageError> {
        tell("building the operator");
        let program = operator::build().await?;
        Self::set_with(lab, program, tell).await
    }

    /// As [`Stage::set`], with an operator that is built already.
    ///
    /// # Errors
    /// As [`Stage::set`].
    pub async fn set_with(lab: Lab, program: PathBuf, mut tell: impl FnMut(&str)) -> Result<Self, StageError> {
        let status = lab.status()?;
        let lines: Arc<dyn Progress> = Arc::new(Lines::new(Duration::from_secs(20), |line| eprintln!("{line}")));
        let tools = Tools::new(lines)?;
        let programs = tools.main_control_plane().await?;
        let helm = tools.helm().await?;
        let kubectl = Kubectl::new(programs.kubectl.clone(), status.kubeconfig.clone());

        tell("installing the chart's definitions and rights, as helm renders them");
        let chart = workspace().join("charts/binder-operator");
        kubectl
            .run(&["apply", "--server-side", "--force-conflicts", "-f", &chart.join("crds").display().to_string()])
            .await?;
        let rendered = Run::new(helm)
            .args(["template", RELEASE])
            .args([&chart])
            .args(["--namespace", SYSTEM, "--set", "image.repository=none.invalid/binder-operator"])
            .args(["--set".to_owned(), format!("apiKeySecrets={{{API_KEY_SECRET}}}")])
            .limit(Duration::from_secs(60))
            .succeed()
            .await?;
        kubectl
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}).to_string())
            .await?;
        kubectl
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}).to_string())
            .await?;
        // This control plane has no nodes: the pod would wait for ever, so the operator runs beside it, with its rights.
        kubectl.apply(&without_deployment(&rendered)).await?;
        let definitions = ["binderfleets", "binderhosts", "binderactions"];
        for name in definitions {
            let name = format!("crd/{name}.{}", binder_crds::GROUP);
            kubectl.run(&["wait", "--for=condition=Established", "--timeout=60s", &name]).await?;
        }

        let client = kubeconfig::client(&status.kubeconfig).await?;
        let operator_kubeconfig = status.kubeconfig.with_file_name("operator.kubeconfig");
        act_as(&client, &status.kubeconfig, &operator_kubeconfig).await?;
        let cloud = status.cloud.clone();
        let stage = Self { lab, kubectl, client, operator_kubeconfig, program, cloud, operator: None };
        stage.secrets().await?;
        Ok(stage)
    }

    /// Makes the Secrets that the owner's file names, or puts them right again.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn secrets(&self) -> Result<(), StageError> {
        let status = self.lab.status()?;
        let login = files::read(&self.lab.layout().login_key())?;
        let key = files::read(&status.api_key_file)?;
        let cloud = files::read(&self.lab.layout().cloud_key())?;
        for secret in [
            json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/ssh-auth",
                "metadata": {"name": LOGIN_SECRET, "namespace": NAMESPACE}, "stringData": {"ssh-privatekey": login}}),
            json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": API_KEY_SECRET, "namespace": NAMESPACE,
                    "labels": {binder_crds::PURPOSE_LABEL: binder_crds::PURPOSE_API_KEY}},
                "stringData": {"api-key": key.trim()}}),
            json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": CLOUD_SECRET, "namespace": NAMESPACE}, "stringData": {"credentials.json": cloud}}),
        ] {
            // Through standard input: what a Secret holds is in no argument.
            self.kubectl.apply(&secret.to_string()).await?;
        }
        Ok(())
    }

    /// Writes down the owner's file for this lab, in mode `Enforce`; gives its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_owners_file(&self) -> Result<PathBuf, StageError> {
        let file = self.lab.layout().dir().join("fleet.json");
        files::write(&file, format!("{:#}\n", owner::file(&self.lab.status()?, "Enforce")), 0o644)?;
        Ok(file)
    }

    /// The operator as a command for the foreground, with the chart's rights unless told otherwise.
    pub fn operator(&self, kubeconfig: Option<PathBuf>) -> Run {
        let kubeconfig = kubeconfig.unwrap_or_else(|| self.operator_kubeconfig.clone());
        Run::new(&self.program).env("KUBECONFIG", kubeconfig).env("BINDER_GCE_ENDPOINT", &self.cloud)
    }

    /// The folder of a host's backups, where the owner's file says `to: {directory: FOLDER}`.
    pub fn backups(&self, folder: &str, host: &str) -> PathBuf {
        self.lab.layout().dir().join(operator::BACKUPS).join(NAMESPACE).join(folder).join(host)
    }

    /// Starts the operator, unless it runs.
    ///
    /// # Errors
    /// It does not become ready; the error shows what it said.
    pub async fn start_operator(&mut self) -> Result<(), StageError> {
        if self.operator.is_none() {
            let (log, group) = self.operator_place()?;
            let started = Operator::start(&self.program, &self.operator_kubeconfig, &self.cloud, &log, &group);
            self.operator = Some(started.await?);
        }
        Ok(())
    }

    /// Has the operator of this checkout run in the lab, and go on when this process has ended. One of an older build that stayed
    /// before is replaced. Gives whether one was started.
    ///
    /// # Errors
    /// It does not become ready; the error shows what it said.
    pub async fn keep_operator(&self) -> Result<bool, StageError> {
        let (log, group) = self.operator_place()?;
        Ok(staying::stay(&self.program, &self.operator_kubeconfig, &self.cloud, &log, &group).await?)
    }

    /// The operator's log, and the control group that it ends with.
    fn operator_place(&self) -> Result<(PathBuf, Cgroup), StageError> {
        let group = Cgroup::of_lab(self.lab.layout().id())?.child("operator");
        Ok((self.lab.layout().dir().join("operator.log"), group))
    }

    /// Ends the operator by SIGTERM; gives how long that took.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub async fn stop_operator(&mut self) -> Result<Duration, StageError> {
        match self.operator.take() {
            Some(operator) => Ok(operator.stop().await?),
            None => Ok(Duration::ZERO),
        }
    }

    /// Kills the operator: it gets no chance to say or write anything.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill_operator(&mut self) -> Result<(), StageError> {
        match self.operator.take() {
            Some(operator) => Ok(operator.kill().await?),
            None => Ok(()),
        }
    }

    /// What the operator has logged since it was first started here.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn operator_log(&self) -> Result<String, StageError> {
        Ok(files::read(&self.lab.layout().dir().join("operator.log"))?)
    }

    /// What the operator says of itself at one of its HTTP paths.
    ///
    /// # Errors
    /// It does not run or does not answer.
    pub async fn operator_says(&self, path: &str) -> Result<String, StageError> {
        match &self.operator {
            Some(operator) => Ok(operator.get(path).await?),
            None => Err(OperatorError::NotRunning.into()),
        }
    }

    /// The user as whom the operator's requests are in the audit log.
    pub fn operator_user() -> String {
        format!("system:serviceaccount:{SYSTEM}:{RELEASE}")
    }

    /// The hosts of the owner's namespace.
    pub fn hosts(&self) -> Api<BinderHost> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The fleets of the owner's namespace.
    pub fn fleets(&self) -> Api<BinderFleet> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The actions of the owner's namespace.
    pub fn actions(&self) -> Api<BinderAction> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// A client with the owner's rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// One host's object.
    ///
    /// # Errors
    /// It is not there.
    pub async fn host(&self, name: &str) -> Result<BinderHost, StageError> {
        let failed = |source| StageError::Api { what: format!("BinderHost {name}"), source: Box::new(source) };
        self.hosts().get(name).await.map_err(failed)
    }

    /// The attempts that are recorded of one host now, to tell later ones from. Names and not times: creation times are
    /// whole seconds, and a heal can take less.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn mark(&self, host: &str) -> Result<Mark, StageError> {
        Ok(Mark(
            self.all_actions_since(host, &Mark::default()).await?.into_iter().filter_map(|a| a.metadata.name).collect(),
        ))
    }

    /// The attempts on one host that were recorded after a mark, oldest first, without those that may come at any time.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn actions_since(&self, host: &str, mark: &Mark) -> Result<Vec<BinderAction>, StageError> {
        let mut actions = self.all_actions_since(host, mark).await?;
        actions.retain(|action| action.spec.step != acts::ANY_TIME);
        Ok(actions)
    }

    /// All attempts on one host that were recorded after a mark, oldest first.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn all_actions_since(&self, host: &str, mark: &Mark) -> Result<Vec<BinderAction>, StageError> {
        let failed = |source| StageError::Api { what: "BinderActions".to_owned(), source: Box::new(source) };
        let mut actions = self.actions().list(&Default::default()).await.map_err(failed)?.items;
        let created = |action: &BinderAction| action.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let sent =
            |action: &BinderAction| action.status.as_ref().and_then(|status| status.sent_at.clone().map(|at| at.0));
        actions.retain(|action| {
            action.spec.host.0 == host && action.metadata.name.as_ref().is_some_and(|name| !mark.0.contains(name))
        });
        // Several within one second are in the order in which they were finished.
        let finished = |action: &BinderAction| {
            action
                .status
                .as_ref()
                .and_then(|status| status.finished_at.clone().map(|at| at.0))
                .unwrap_or(jiff::Timestamp::MAX)
        };
        actions.sort_by_key(|action| (created(action), sent(action), finished(action)));
        Ok(actions)
    }

    /// Waits until something is so. `look` gives what it saw as an error as long as it is not.
    ///
    /// # Errors
    /// It was not so within `limit`; the error tells what was seen last.
    pub async fn until<T, F>(&self, what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T, StageError>
    where
        F: Future<Output = Result<T, String>>,
    {
        let until = Instant::now() + limit;
        loop {
            match look().await {
                Ok(seen) => return Ok(seen),
                Err(seen) if Instant::now() > until => {
                    return Err(StageError::Never { what: what.to_owned(), limit, seen });
                }
                Err(_) => sleep(Duration::from_millis(150)).await,
            }
        }
    }

    /// Waits until a host's condition has a status and, if it is said, a reason; gives the condition.
    ///
    /// # Errors
    /// It does not get there.
    pub async fn condition(
        &self,
        host: &str,
        kind: &str,
        status: &str,
        reason: Option<&str>,
        limit: Duration,
    ) -> Result<Condition, StageError> {
        let what =
            format!("{host}: {kind} is {status}{}", reason.map(|reason| format!(" ({reason})")).unwrap_or_default());
        self.until(&what, limit, || async {
            let object = self.host(host).await.map_err(|error| crate::said(&error))?;
            let generation = object.metadata.generation;
            let state = object.status.unwrap_or_default();
            let found = state.conditions.iter().find(|condition| condition.type_ == kind);
            match found {
                Some(condition)
                    if condition.status == status
                        && reason.is_none_or(|reason| condition.reason == reason)
                        && Some(state.observed_generation) == generation =>
                {
                    Ok(condition.clone())
                }
                Some(condition) => Err(format!("{} {}: {}", condition.status, condition.reason, condition.message)),
                None => Err(format!("no such condition; {}", state.summary)),
            }
        })
        .await
    }

    /// Waits until every one of these hosts is healthy.
    ///
    /// # Errors
    /// One of them is not in time.
    pub async fn healthy(&self, hosts: &[&str], limit: Duration) -> Result<(), StageError> {
        let until = Instant::now() + limit;
        for host in hosts {
            self.condition(
                host,
                binder_crds::conditions::HEALTHY,
                "True",
                None,
                until.saturating_duration_since(Instant::now()),
            )
            .await?;
        }
        Ok(())
    }

    /// Waits until every host has been healthy for so long that its attempts count afresh: what an earlier fault brought on
    /// late is over, no route of Binder's proxy is stale any more, and what is broken next is an incident of its own.
    ///
    /// # Errors
    /// One of them is not in time.
    pub async fn calm(&self, limit: Duration) -> Result<(), StageError> {
        let hosts: Vec<String> = self.lab.status()?.hosts.into_iter().map(|host| host.name).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let until = Instant::now() + limit;
        // An app that was culled while its daemon was ended has left its route. The operator deletes it half a minute later, as it
        // should, and in the middle of what comes next.
        self.until("no route is stale", limit, || acts::world::no_stale_routes(self)).await?;
        for host in hosts {
            let left = until.saturating_duration_since(Instant::now());
            self.until(&format!("{host} is healthy, and stays so"), left, || async {
                let status = self.host(host).await.map_err(|error| crate::said(&error))?.status.unwrap_or_default();
                let healthy =
                    status.conditions.iter().find(|condition| condition.type_ == binder_crds::conditions::HEALTHY);
                let Some(healthy) = healthy.filter(|condition| condition.status == "True") else {
                    return Err(status.summary);
                };
                // The API keeps whole seconds.
                let since = jiff::Timestamp::now().duration_since(healthy.last_transition_time.0).as_secs();
                if since > owner::MIN_HEALTHY_PERIOD { Ok(()) } else { Err(format!("healthy for {since} s")) }
            })
            .await?;
        }
        Ok(())
    }

    /// Everything that helps to understand a failure: what the objects say, what the operator logged last.
    pub async fn told(&self) -> String {
        let mut text = String::new();
        for arguments in [
            &["-n", NAMESPACE, "get", "bf,bh,ba", "-o", "wide"][..],
            &["-n", NAMESPACE, "describe", "bh"],
            &["-n", NAMESPACE, "get", "ba", "-o", "yaml"],
        ] {
            let said = self.kubectl.run(arguments).await.unwrap_or_else(|error| crate::said(&error));
            text.push_str(&format!("--- kubectl {}\n{said}\n", arguments.join(" ")));
        }
        let log = self.operator_log().unwrap_or_else(|error| crate::said(&error));
        let lines: Vec<&str> = log.lines().collect();
        text.push_str("--- the operator's last words\n");
        text.push_str(&lines[lines.len().saturating_sub(80)..].join("\n"));
        text.push('\n');
        text
    }
}

/// The root of this checkout.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Everything that was rendered but the Deployment, which would need nodes.
fn without_deployment(rendered: &str) -> String {
    rendered
        .split("\n---")
        .filter(|document| !document.lines().any(|line| line.trim_end() == "kind: Deployment"))
        .collect::<Vec<_>>()
        .join("\n---")
}

/// Writes a kubeconfig for the chart's service account: the administrator's, with the account's token for a user.
async fn act_as(client: &Client, admin: &Path, file: &Path) -> Result<(), StageError> {
    let token = kubeconfig::token(client, SYSTEM, RELEASE, TOKEN).await?;
    let mut config = Kubeconfig::read_from(admin)
        .map_err(|source| AccessError::Kubeconfig { path: admin.display().to_string(), source: Box::new(source) })?;
    for context in config.contexts.iter_mut().filter_map(|context| context.context.as_mut()) {
        context.user = Some(RELEASE.to_owned());
        context.namespace = Some(SYSTEM.to_owned());
    }
    let mut text = serde_json::to_value(&config)?;
    text["users"] = json!([{"name": RELEASE, "user": {"token": token}}]);
    files::write(file, text.to_string(), 0o600)?;
    Ok(())
}
