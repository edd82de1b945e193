//! What can be broken in a lab, each for real, and looked at until it is.
//!
//! A fault is a row of a table: its name, what it does, who heals it, and two functions. Each module holds the rows of
//! one kind, and [`all`] is the only place that names the modules. No fault only says that something is broken: it ends
//! with a look at the host that must show it.
//!
//! Knows hosts, the Binder software on them and what the owner has in the cluster; nothing of the operator.

pub mod apps;
mod binder;
mod cluster;
mod crashes;
pub mod database;
mod docker;
mod firewall;
mod keys;
mod machine;
pub mod modules;
mod outage;
mod pm2;
mod proxy;
mod reach;
mod testimony;
pub mod tools;
mod way_in;

pub(crate) use docker::UNTOUCHED;
pub(crate) use way_in::let_in_again;

use std::time::Duration;

use futures::future::BoxFuture;

use crate::binder::database::DatabaseError;
use crate::binder::settle::SettleError;
use crate::cgroup::CgroupError;
use crate::cloud::metadata::MetadataError;
use crate::cluster::kubeconfig::AccessError;
use crate::command::CommandError;
use crate::files::FileError;
use crate::host::enter::{Host, HostError};
use crate::inventory::{Role, with_role};
use crate::lab::{Lab, LabError};
use crate::process::ProcessError;

/// How long a fault may take to show. Most do at once.
const SHOWS: Duration = Duration::from_secs(30);

/// Something could not be broken, or mended.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Nobody knows such a fault.
    #[error("there is no fault `{0}`; `cargo lab break --list` names them all")]
    Unknown(String),
    /// It needs no mending, since the operator heals it.
    #[error("`{0}` is the operator's to heal, and there is nothing to take back")]
    NotToMend(&'static str),
    /// The fault cannot be on that host.
    #[error("`{fault}` is a fault of {only}, not of {host}")]
    WrongHost {
        /// The fault.
        fault: &'static str,
        /// The only host that can have it.
        only: &'static str,
        /// The host asked for.
        host: String,
    },
    /// It could be on any host, so somebody must say on which.
    #[error("`{0}` can be on any host: say on which")]
    WhichHost(&'static str),
    /// The lab is gone, or lacks the host.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The host does not do what it is told, or does not show the fault.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Binder does not do what it is told.
    #[error(transparent)]
    Binder(#[from] SettleError),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// An instance's metadata could not be changed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The database does not do what it is told.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A program of this computer failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A program of this computer that goes on could not be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It could not be made to end with the lab.
    #[error(transparent)]
    Group(#[from] CgroupError),
    /// The owner's cluster could not be reached.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The owner's cluster said no.
    #[error("cannot change {what}")]
    Api {
        /// What.
        what: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// There is nothing that could be broken.
    #[error("on {host}: {what}")]
    NothingToBreak {
        /// The host.
        host: String,
        /// What is missing.
        what: String,
    },
}

/// Which host a fault is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one with this role.
    The(Role),
    /// Any; whoever breaks it says which.
    Any,
}

/// Who heals it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Healer {
    /// The operator does.
    Operator,
    /// The operator sees and says it; `mend` takes it back.
    Mend,
}

/// Where a fault happens.
#[derive(Debug, Clone, Copy)]
struct Site<'a> {
    lab: &'a Lab,
    host: &'a Host,
}

type Act = for<'a> fn(Site<'a>) -> BoxFuture<'a, Result<(), FaultError>>;

/// One way in which the lab can be broken.
#[derive(Debug)]
pub struct Fault {
    /// Its name, as in the table of the runbook's procedures.
    pub name: &'static str,
    /// What really happens.
    pub does: &'static str,
    /// Who heals it.
    pub healed_by: Healer,
    /// Which host it is on.
    pub target: Target,
    inflict: Act,
    undo: Option<Act>,
}

/// Every fault there is.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    [
        pm2::FAULTS,
        binder::FAULTS,
        firewall::FAULTS,
        cluster::FAULTS,
        docker::FAULTS,
        proxy::FAULTS,
        crashes::FAULTS,
        machine::FAULTS,
        modules::FAULTS,
        outage::FAULTS,
        way_in::FAULTS,
        reach::FAULTS,
        keys::FAULTS,
        apps::FAULTS,
        database::FAULTS,
        tools::FAULTS,
        testimony::FAULTS,
    ]
    .into_iter()
    .flatten()
}

/// The fault of a name.
///
/// # Errors
/// There is none.
pub fn named(name: &str) -> Result<&'static Fault, FaultError> {
    all().find(|fault| fault.name == name).ok_or_else(|| FaultError::Unknown(name.to_owned()))
}

impl Fault {
    /// Breaks it, and comes back when a look shows that it is broken. Without a host it is the one that the fault is
    /// about.
    ///
    /// # Errors
    /// It did not break; the error says what was seen instead.
    pub async fn break_on(&self, lab: &Lab, host: Option<&str>) -> Result<(), FaultError> {
        let host = self.host(lab, host)?;
        (self.inflict)(Site { lab, host: &host }).await
    }

    /// Takes it back, as far as that is not the operator's to do.
    ///
    /// # Errors
    /// It is the operator's, or it could not be taken back.
    pub async fn mend_on(&self, lab: &Lab, host: Option<&str>) -> Result<(), FaultError> {
        let undo = self.undo.ok_or(FaultError::NotToMend(self.name))?;
        let host = self.host(lab, host)?;
        undo(Site { lab, host: &host }).await
    }

    /// The host it is on, when it is about one only.
    pub fn only_host(&self) -> Option<&'static str> {
        match self.target {
            Target::The(role) => Some(with_role(role).name),
            Target::Any => None,
        }
    }

    fn host(&self, lab: &Lab, asked: Option<&str>) -> Result<Host, FaultError> {
        let name = match (self.only_host(), asked) {
            (Some(only), Some(host)) if only != host => {
                return Err(FaultError::WrongHost { fault: self.name, only, host: host.to_owned() });
            }
            (Some(only), _) => only,
            (None, Some(host)) => host,
            (None, None) => return Err(FaultError::WhichHost(self.name)),
        };
        Ok(lab.host(name)?)
    }
}

/// Waits until a constant script, run as root, says yes by its status. What it prints is shown when it never does.
async fn shows(host: &Host, what: &str, script: &'static str, args: &[&str]) -> Result<(), FaultError> {
    let look = |host: Host| async move {
        match host.script(script, args).await {
            Ok(_) => Ok(()),
            Err(error) => Err(crate::said(&error)),
        }
    };
    Ok(host.until(what, SHOWS, look).await?)
}

/// Prints the process that pm2 runs as `$1`. Fails as long as there is none, or nobody listens on the port `$2`, if there is one.
const RUNNING: &str = r#"
[ -z "${2:-}" ] || ss -ltnH "sport = :$2" | grep -q . || { echo "nobody listens on $2" >&2; exit 1; }
pm2 jlist | node -e '
  const list = JSON.parse(require("fs").readFileSync(0, "utf8").replace(/^[^]*?(?=\[(?:\{|\]))/, ""))
  const runs = (entry) => entry.name === process.argv[1] && entry.pm2_env.status === "online" && entry.pid > 0
  const found = list.find(runs)
  if (!found) { console.error(`pm2 does not run ${process.argv[1]}`); process.exit(1) }
  console.log(found.pid)' "$1"
"#;

/// Waits until pm2 runs a process, and somebody listens on its port, if it has one: what is to be broken works first. Even on a
/// fleet that is well, one may have crashed a moment ago and be on its way up.
async fn runs(host: &Host, process: &str, port: Option<&str>) -> Result<(), FaultError> {
    let args: Vec<&str> = std::iter::once(process).chain(port).collect();
    let look = |host: Host| {
        let args = &args;
        async move { host.script_as_user(RUNNING, args).await.map(|_| ()).map_err(|error| crate::said(&error)) }
    };
    Ok(host.until(&format!("pm2 runs {process}"), SHOWS, look).await?)
}

/// Holds every SSH session of a host, and the door, for at most `$1` seconds, should nobody open it again.
const HOLD_SSH: &str = "pkill -STOP -x sshd; \
    setsid -f sh -c 'sleep \"$1\"; pkill -CONT -x sshd' binder-lab-hold \"$1\" </dev/null >/dev/null 2>&1";
/// Opens it again, and ends whoever would do so later: it would open the door that the next fault holds.
const OPEN_SSH: &str = "pkill -f '[b]inder-lab-hold' || true; pkill -CONT -x sshd";

/// Inflicts a fault that takes several seconds and steps, so that whoever looks over SSH sees it when it is complete and
/// not before: an operator at work would heal it half-way. To the operator its look only takes longer.
async fn unseen(site: Site<'_>, inflict: impl Future<Output = Result<(), FaultError>>) -> Result<(), FaultError> {
    site.host.script(HOLD_SSH, &["300"]).await?;
    let inflicted = inflict.await;
    site.host.script(OPEN_SSH, &[]).await?;
    inflicted
}

/// Succeeds when somebody listens on port `$1`.
const OPEN: &str = "ss -ltnH \"sport = :$1\" | grep .";
/// Succeeds when nobody listens on port `$1`.
const CLOSED: &str = "! ss -ltnH \"sport = :$1\" | grep .";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own_and_who_heals_it_is_consistent() {
        let mut names: Vec<_> = all().map(|fault| fault.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for fault in all() {
            assert!(fault.healed_by == Healer::Operator || fault.undo.is_some(), "{} cannot be mended", fault.name);
            assert!(!fault.does.is_empty() && !fault.does.ends_with('.'), "{}", fault.name);
        }
    }
}
