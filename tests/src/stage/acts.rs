//! The faults that the demo shows and the scenarios test: each is broken for real, seen by the operator, healed by it, and
//! the heal is seen in the world - the port answers, the rule is there once - and not only in a status.

use std::net::SocketAddr;
use std::time::Duration;

use binder_crds::{ActionOutcome, BinderAction, conditions};
use serde_json::Value;
use tokio::time::Instant;

use super::{NAMESPACE, Stage, StageError};
use crate::http::Request;

/// Asks the kubectl proxy for the namespace that every cluster has, from the host itself: it listens on loopback only. A
/// static busybox has a wget, which crashes here.
const ASK_PROXY: &str = "exec 3<>/dev/tcp/127.0.0.1/8085; \
    printf 'GET /api/v1/namespaces/kube-system HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; cat <&3";

/// From the break until the operator says it.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// From the break until it is healed. `deploy-kubernetes` looks for its cluster every 20 s.
const HEALED_WITHIN: Duration = Duration::from_secs(300);

/// One fault and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    /// The fault's name in `cargo lab break --list`.
    pub fault: &'static str,
    /// The host that it is on.
    pub host: &'static str,
    /// What a person calls it.
    pub title: &'static str,
    /// The condition that turns false.
    pub condition: &'static str,
    /// Its reason.
    pub reason: &'static str,
    /// The kinds of step that must have been done, in this order; none: the operator only says it.
    pub steps: &'static [&'static str],
    /// What of the world must be so again.
    pub world: World,
}

/// What of the world must be so again after a heal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// The web page is served on 3000.
    Page,
    /// The kubectl proxy leads to the cluster.
    Proxy,
    /// The redirect is there exactly once, and port 80 serves the page to other machines.
    RedirectOnce,
    /// One `deploy-kubernetes` and one daemon under pm2, and an app can be deployed and reached.
    Deploy,
    /// The disk is below its threshold; a person had to make room.
    DiskBelow,
}

/// The acts of the demo, in order.
pub const ACTS: &[Act] = &[
    Act {
        fault: "web-lost",
        host: "binder-web-deploy",
        title: "the web server is gone from pm2",
        condition: conditions::SERVICES_RUNNING,
        reason: "ProcessMissing",
        steps: &["StartProcess"],
        world: World::Page,
    },
    Act {
        fault: "proxy-dead",
        host: "binder-web-deploy",
        title: "the kubectl proxy is dead",
        condition: conditions::PROXY_SERVING,
        reason: "NothingListens",
        steps: &["StartKubectlProxy"],
        world: World::Proxy,
    },
    Act {
        fault: "redirect-lost",
        host: "binder-web-deploy",
        title: "the port 80 redirect is flushed",
        condition: conditions::REDIRECT_IN_PLACE,
        reason: "RedirectMissing",
        steps: &["InsertRedirect"],
        world: World::RedirectOnce,
    },
    Act {
        fault: "redirect-doubled",
        host: "binder-web-deploy",
        title: "the port 80 redirect is there twice",
        condition: conditions::REDIRECT_IN_PLACE,
        reason: "RedirectDoubled",
        steps: &["DeleteExtraRedirects"],
        world: World::RedirectOnce,
    },
    Act {
        fault: "deploy-lost",
        host: "binder-web-deploy",
        title: "deploy-kubernetes is lost by pm2, with two daemons",
        condition: conditions::SERVICES_RUNNING,
        reason: "LostByPm2",
        steps: &["EndOrphan", "DeleteEntries", "StartProcess"],
        world: World::Deploy,
    },
    Act {
        fault: "disk-filling",
        host: "binder-tester-2",
        title: "Docker's disk is over its threshold",
        condition: conditions::DISK_BELOW_THRESHOLD,
        reason: "OverThreshold",
        steps: &[],
        world: World::DiskBelow,
    },
];

/// The act of a fault.
pub fn act(fault: &str) -> Option<&'static Act> {
    ACTS.iter().find(|act| act.fault == fault)
}

/// What became of an act.
#[derive(Debug, Clone)]
pub struct Report {
    /// What really happened to the host.
    pub broken: &'static str,
    /// What the operator said, in its condition's words.
    pub saw: String,
    /// What `kubectl describe` said while it was broken.
    pub described: String,
    /// What the operator did: step, outcome, in the words of its BinderActions.
    pub did: Vec<(String, String)>,
    /// What was seen in the world after.
    pub verified: String,
    /// From the break until the operator said it.
    pub seen_after: Duration,
    /// From the break until all was well again.
    pub healed_after: Duration,
    /// How many attempts it took.
    pub attempts: usize,
}

/// An act did not go as it must.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// Something could not be done or did not become so.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The operator did something else.
    #[error("expected the steps {expected:?} to be done, in this order and all well; done was {done:?}")]
    OtherSteps {
        /// What had to be done.
        expected: &'static [&'static str],
        /// What was done.
        done: Vec<(String, String)>,
    },
}

impl Act {
    /// What `kubectl describe` says of the host while it says the fault; one text, so that nothing in it is from later.
    async fn described(&self, stage: &Stage) -> Result<String, String> {
        let text = describe(stage, self.host).await.map_err(|error| crate::said(&error))?;
        let says = text.lines().any(|line| line.trim().strip_prefix("Reason:").map(str::trim) == Some(self.reason));
        // Events name reasons too, in columns of their own.
        if says { Ok(text) } else { Err(message_of(&text, "AsDescribed")) }
    }

    /// Plays the act on a stage whose host is healthy: break, see, heal, verify.
    ///
    /// # Errors
    /// Any of it did not happen.
    pub async fn play(&self, stage: &Stage, mut tell: impl FnMut(&str)) -> Result<Report, ActError> {
        stage.healthy(&[self.host], HEALED_WITHIN).await?;
        let fault = stage.lab.fault(self.fault).map_err(StageError::from)?;
        let mark = stage.mark(self.host).await?;
        fault.break_on(&stage.lab, Some(self.host)).await.map_err(StageError::from)?;
        // Counted from here: some faults take a while to bring about, and are none before they are whole.
        let began = Instant::now();
        tell(&format!("broken:   {}", fault.does));

        let described = stage.until(&format!("{} is said", self.reason), SEEN_WITHIN, || self.described(stage)).await?;
        let seen_after = began.elapsed();
        let saw = message_of(&described, self.reason);
        tell(&format!("seen:     {} {}: {saw}", self.condition, self.reason));

        if self.steps.is_empty() {
            // Nothing is to be done about it by the operator; the person that it calls makes room.
            stage.condition(self.host, conditions::STALLED, "True", None, SEEN_WITHIN).await?;
            fault.mend_on(&stage.lab, Some(self.host)).await.map_err(StageError::from)?;
        }
        stage.healthy(&[self.host], HEALED_WITHIN).await?;
        let verified =
            stage.until(&format!("{:?} in the world", self.world), HEALED_WITHIN, || self.world.look(stage)).await?;
        let healed_after = began.elapsed();

        let actions = stage.actions_since(self.host, &mark).await?;
        let did: Vec<(String, String)> = actions.iter().map(told).collect();
        for (step, outcome) in &did {
            tell(&format!("did:      {step}: {outcome}"));
        }
        tell(&format!("verified: {verified}"));
        let kinds: Vec<&str> = actions.iter().map(|action| action.spec.step.as_str()).collect();
        let well = actions
            .iter()
            .all(|action| action.status.as_ref().and_then(|status| status.outcome) == Some(ActionOutcome::Succeeded));
        if kinds != self.steps || !well {
            return Err(ActError::OtherSteps { expected: self.steps, done: did });
        }
        Ok(Report { broken: fault.does, saw, described, attempts: did.len(), did, verified, seen_after, healed_after })
    }
}

/// `kubectl describe` of one host.
///
/// # Errors
/// It cannot be had.
pub async fn describe(stage: &Stage, host: &str) -> Result<String, StageError> {
    Ok(stage.kubectl.run(&["-n", NAMESPACE, "describe", "bh", host]).await?)
}

/// The message of the condition with this reason, in the words of `kubectl describe`.
fn message_of(described: &str, reason: &str) -> String {
    let value = |line: &str, key: &str| line.trim().strip_prefix(key).map(|rest| rest.trim().to_owned());
    let mut last = String::new();
    for line in described.lines() {
        if let Some(message) = value(line, "Message:") {
            last = message;
        } else if value(line, "Reason:").as_deref() == Some(reason) {
            return last;
        }
    }
    String::new()
}

fn told(action: &BinderAction) -> (String, String) {
    let status = action.status.clone().unwrap_or_default();
    let outcome = status.outcome.map_or("no outcome yet", ActionOutcome::as_str);
    (action.spec.description.clone(), format!("{outcome}, {}", status.message))
}

impl World {
    /// Looks at the world; what it saw, or what is not so yet.
    ///
    /// # Errors
    /// It is not so yet, or could not be looked at.
    pub async fn look(self, stage: &Stage) -> Result<String, String> {
        let text = |error: &dyn std::error::Error| crate::said(error);
        match self {
            Self::Page => {
                let at = address(stage, "binder-web-deploy", 3000)?;
                let page = Request::get("/").text(at).await.map_err(|error| text(&error))?;
                if page.contains("<html") { Ok(format!("{at} serves the page")) } else { Err("no page".to_owned()) }
            }
            Self::Proxy => {
                let host = stage.lab.host("binder-web-deploy").map_err(|error| text(&error))?;
                let answer =
                    host.exec(&["timeout", "5", "bash", "-c", ASK_PROXY]).await.map_err(|error| text(&error))?;
                if answer.stdout.contains("\"kube-system\"") {
                    Ok("8085 leads to the cluster on kubernetes-master".to_owned())
                } else {
                    Err(answer.said())
                }
            }
            Self::RedirectOnce => {
                let host = stage.lab.host("binder-web-deploy").map_err(|error| text(&error))?;
                let rules = host
                    .exec(&["iptables", "-w", "5", "-t", "nat", "-S", "PREROUTING"])
                    .await
                    .map_err(|error| text(&error))?;
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
            Self::Deploy => {
                let host = stage.lab.host("binder-web-deploy").map_err(|error| text(&error))?;
                let table = host.exec_as_user(&["pm2", "jlist"]).await.map_err(|error| text(&error))?;
                let rows: Value = table
                    .stdout
                    .lines()
                    .rfind(|line| line.starts_with('['))
                    .and_then(|line| serde_json::from_str(line).ok())
                    .ok_or_else(|| "no table of pm2".to_owned())?;
                let count = |name: &str| {
                    rows.as_array().map_or(0, |rows| rows.iter().filter(|row| row["name"] == name).count())
                };
                let counts = (count("binder-deploy-kubernetes-start"), count("binder-kubernetes-daemon"));
                if counts != (1, 1) {
                    return Err(format!("pm2 holds {} of the server and {} daemons", counts.0, counts.1));
                }
                let binder = stage.lab.binder().map_err(|error| text(&error))?;
                let id = binder.deploy_app().await.map_err(|error| text(&error))?;
                Ok(format!("one server and one daemon; app {id} was deployed and is reached by its route"))
            }
            Self::DiskBelow => {
                let host = stage.lab.host("binder-tester-2").map_err(|error| text(&error))?;
                let df = host.exec(&["df", "-P", super::owner::DISK]).await.map_err(|error| text(&error))?;
                let used = df
                    .stdout
                    .split_whitespace()
                    .find_map(|word| word.strip_suffix('%').and_then(|percent| percent.parse::<u8>().ok()))
                    .ok_or_else(|| df.said())?;
                if used <= 85 { Ok(format!("{} is at {used} %", super::owner::DISK)) } else { Err(format!("{used} %")) }
            }
        }
    }
}

fn address(stage: &Stage, host: &str, port: u16) -> Result<SocketAddr, String> {
    let status = stage.lab.status().map_err(|error| crate::said(&error))?;
    let host = status.host(host).ok_or_else(|| format!("the lab has no {host}"))?;
    Ok(SocketAddr::from((host.address, port)))
}
