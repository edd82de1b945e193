//! Starting all of Binder by hand, in the runbook's order, and waiting until it says of itself that it is well.
//!
//! This is what a person did, over SSH as that person: it proves that the lab's software is whole, and gives a test its
//! starting point without an operator. The key goes in by standard input and environment, never in a command line.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::files;
use crate::host::enter::{Host, HostError};
use crate::http::{HttpError, Request};
use crate::inventory::{Role, USER, with_role};
use crate::lab::{Lab, LabError};

/// A pm2 command starts its daemon first, and loads a few hundred modules: seconds on a busy computer.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Until a server listens. `deploy-kubernetes` looks every 20 s whether the cluster's proxy is there.
const LISTEN_LIMIT: Duration = Duration::from_secs(120);

/// Until the health checker has been round once. It starts every 40 s and may wait 30 s for an app.
const HEALTH_LIMIT: Duration = Duration::from_secs(180);

/// The template that the health checker deploys.
pub const TEMPLATE: &str = "binder-project-example-requirements";

/// Binder did not come up, or does not work.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The lab is gone, or lacks a host.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A host does not do what it is told.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A server does not answer.
    #[error("{what}")]
    Http {
        /// What was asked.
        what: &'static str,
        /// What went wrong.
        #[source]
        source: HttpError,
    },
    /// It did not become so.
    #[error("{what} was not so after {limit:?}; last seen: {seen}")]
    Never {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What was seen last.
        seen: String,
    },
}

/// A server of Binder's: the words that start it, and where it then listens.
struct Server {
    role: Role,
    name: &'static str,
    port: u16,
}

const SERVERS: [Server; 4] = [
    Server { role: Role::WebDeploy, name: "web", port: 3000 },
    Server { role: Role::Build, name: "build", port: 8082 },
    Server { role: Role::WebDeploy, name: "deploy-kubernetes", port: 8084 },
    Server { role: Role::WebDeploy, name: "health", port: 8086 },
];

/// Starts a server of Binder's with the key from standard input. `$1` is its name.
const START_SERVER: &str = "IFS= read -r BINDER_API_KEY && export BINDER_API_KEY && exec binder-control";

/// Starts the `kubectl proxy` as a person does in `screen`: free of the session that started it.
pub const START_PROXY: &str = "setsid -f /home/andrew/kubernetes/cluster/kubectl.sh proxy --port=8085 \
    </dev/null >>/home/andrew/kubectl-proxy.log 2>&1";

/// The runbook's redirect.
pub const ADD_REDIRECT: &str =
    "sudo -n iptables -w 10 -t nat -A PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-port 3000";

/// Answers on a port of the host itself: how the `kubectl proxy`, which listens on loopback only, is looked at.
const PROXY_ANSWERS: &str = "exec 3<>/dev/tcp/127.0.0.1/8085; \
    printf 'GET /version HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; head -c 15 <&3";

/// The Binder of one lab.
pub struct Binder<'a> {
    lab: &'a Lab,
    key: String,
}

impl<'a> Binder<'a> {
    /// The Binder of a lab that is up.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn of(lab: &'a Lab) -> Result<Self, SettleError> {
        let key = files::read(&lab.status()?.api_key_file)?.trim().to_owned();
        Ok(Self { lab, key })
    }

    fn host(&self, role: Role) -> Result<Host, SettleError> {
        Ok(self.lab.host(with_role(role).name)?)
    }

    fn at(&self, role: Role, port: u16) -> Result<SocketAddr, SettleError> {
        let status = self.lab.status()?;
        Ok(SocketAddr::from((status.network().address(with_role(role).octet), port)))
    }

    /// Starts everything and waits until `/health/` says `running` for both. `tell` gets a line for each step.
    ///
    /// # Errors
    /// Some step did not have its effect in time; the error says what the host said.
    pub async fn settle(&self, mut tell: impl FnMut(&str)) -> Result<(), SettleError> {
        let began = Instant::now();
        let mut step = |what: &str| tell(&format!("{:>3} s  {what}", began.elapsed().as_secs()));
        for (service, port) in [("db", 9050), ("logging", 8050)] {
            step(&format!("starting the service {service}"));
            // Ends with 1 when all is well; only the port tells.
            let command = format!("binder-control start-service {service}");
            let said = self.host(Role::Services)?.ssh(&command, COMMAND_LIMIT).await?;
            self.listens(Role::Services, port, &said.said()).await?;
        }
        step("starting the kubectl proxy");
        self.start_proxy().await?;
        for server in SERVERS {
            step(&format!("starting {}", server.name));
            self.start_server(&server).await?;
        }
        step("redirecting port 80");
        let web = self.host(Role::WebDeploy)?;
        web.script_as_user(ADD_REDIRECT, &[]).await?;
        step("waiting for the health checker's first round");
        self.healthy().await?;
        step("everything is running");
        Ok(())
    }

    /// Starts the `kubectl proxy` and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn start_proxy(&self) -> Result<(), SettleError> {
        let web = self.host(Role::WebDeploy)?;
        web.ssh(START_PROXY, COMMAND_LIMIT).await?;
        web.until("the kubectl proxy answers", LISTEN_LIMIT, |host| async move {
            match host.exec(&["bash", "-c", PROXY_ANSWERS]).await {
                Ok(answer) if answer.stdout.contains(" 200 ") => Ok(()),
                Ok(answer) => Err(answer.said()),
                Err(error) => Err(crate::said(&error)),
            }
        })
        .await?;
        Ok(())
    }

    async fn start_server(&self, server: &Server) -> Result<(), SettleError> {
        let said = self.ask_to_start(&self.host(server.role)?, server.name).await?;
        self.listens(server.role, server.port, &said).await
    }

    /// Runs `binder-control SERVER start` on a host with the lab's key, over SSH; gives what it said. What becomes of the
    /// server is another matter.
    ///
    /// # Errors
    /// The command could not be run.
    pub async fn ask_to_start(&self, host: &Host, server: &str) -> Result<String, SettleError> {
        let command = format!("{START_SERVER} {server} start");
        let key = format!("{}\n", self.key).into_bytes();
        Ok(host.ssh_with_input(&command, key, COMMAND_LIMIT).await?.said())
    }

    /// As [`Binder::ask_to_start`], past SSH, and with a folder ahead of all others on the `PATH` if one is given.
    ///
    /// # Errors
    /// The command could not be run.
    pub async fn ask_to_start_unseen(&self, host: &Host, server: &str, ahead: Option<&str>) -> Result<(), SettleError> {
        let path = ahead.map(|folder| format!("PATH={folder}:$PATH; export PATH; ")).unwrap_or_default();
        let command = format!("{path}{START_SERVER} {server} start");
        let run = host.entering(USER, &["sh", "-c", &command])?.stdin(format!("{}\n", self.key)).limit(COMMAND_LIMIT);
        run.output().await.map_err(|source| HostError::Command { host: host.name().to_owned(), source })?;
        Ok(())
    }

    async fn listens(&self, role: Role, port: u16, said: &str) -> Result<(), SettleError> {
        let at = self.at(role, port)?;
        self.until(&format!("{at} listens"), LISTEN_LIMIT, || async {
            match tokio::time::timeout(Duration::from_secs(2), tokio::net::TcpStream::connect(at)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(format!("{error}; what was started said: {said}")),
                Err(_) => Err("no answer".to_owned()),
            }
        })
        .await
    }

    async fn until<F>(&self, what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<(), SettleError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let until = Instant::now() + limit;
        loop {
            match look().await {
                Ok(()) => return Ok(()),
                Err(seen) if Instant::now() > until => {
                    return Err(SettleError::Never { what: what.to_owned(), limit, seen });
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// What `/health/` says.
    ///
    /// # Errors
    /// The health server does not answer.
    pub async fn health(&self) -> Result<Value, SettleError> {
        let answer = Request::get("/health/").authorized(&self.key).json(self.at(Role::WebDeploy, 8086)?).await;
        answer.map_err(|source| SettleError::Http { what: "asking for the health", source })
    }

    /// Waits until `/health/` says `running` for both.
    ///
    /// # Errors
    /// It does not.
    pub async fn healthy(&self) -> Result<(), SettleError> {
        self.until("deploy and build are said to be running", HEALTH_LIMIT, || async {
            let health = self.health().await.map_err(|error| crate::said(&error))?;
            let entries = health.as_array().map(Vec::as_slice).unwrap_or_default();
            let runs = |name| entries.iter().any(|entry| entry["name"] == name && entry["status"] == "running");
            if runs("deploy") && runs("build") { Ok(()) } else { Err(health.to_string()) }
        })
        .await
    }

    /// Deploys an app as a user's click does, and waits until users would reach it; gives its id.
    ///
    /// # Errors
    /// It does not become `deployed`, with its location.
    pub async fn deploy_app(&self) -> Result<String, SettleError> {
        let at = self.at(Role::WebDeploy, 8084)?;
        let wrong = |source| SettleError::Http { what: "deploying an app", source };
        let body = json!({"template-name": TEMPLATE, "cull-timeout": 3_600_000});
        let request =
            Request { method: "POST", path: "/applications/", authorization: Some(&self.key), json: Some(&body) };
        let answer = request.json(at).await.map_err(wrong)?;
        let id = answer["id"].as_str().unwrap_or_default().to_owned();
        let path = format!("/applications/{TEMPLATE}/{id}");
        self.until(&format!("the app {id} is deployed"), LISTEN_LIMIT, || async {
            let app = Request::get(&path).authorized(&self.key).json(at).await.map_err(|error| crate::said(&error))?;
            match app["location"].as_str() {
                Some(location) if location.contains(&id) => Ok(()),
                _ => Err(app.to_string()),
            }
        })
        .await?;
        Ok(id)
    }
}
