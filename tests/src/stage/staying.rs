//! This checkout's operator as a part of a lab that stays up: it runs on when whoever started it has ended, and whoever comes
//! later finds it. One of an older build is replaced.
//!
//! Knows nothing of what the operator does.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::operator::{ENDS_WITHIN, OperatorError, READY, arguments, environment};
use crate::cgroup::Cgroup;
use crate::files;
use crate::http::Request;
use crate::ports;
use crate::process::{ProcessSpec, Running};

/// Where, beside its log, it is written down which one stays.
const RECORD: &str = "operator.json";

/// The operator that stays, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Stays {
    running: Running,
    listen: SocketAddr,
}

impl Stays {
    /// Whether it runs, and is of this very program: a build puts another file into the place of the old one.
    fn is_of(&self, program: &Path) -> bool {
        let id = |path: &Path| std::fs::metadata(path).map(|about| (about.dev(), about.ino())).ok();
        let runs = PathBuf::from(format!("/proc/{}/exe", self.running.pid));
        self.running.is_alive() && id(&runs).is_some_and(|runs| Some(runs) == id(program))
    }
}

/// Has the operator run in a lab, and stay there: the one that does, if it is of this program; otherwise that one is ended, and
/// another started, in the lab's control group, so that it ends with the lab. Gives whether one was started.
///
/// # Errors
/// It does not become ready; the error shows what it said.
pub(super) async fn stay(
    program: &Path,
    kubeconfig: &Path,
    cloud: &str,
    log: &Path,
    group: &Cgroup,
) -> Result<bool, OperatorError> {
    let record = log.with_file_name(RECORD);
    let there = files::read(&record).ok().and_then(|text| serde_json::from_str::<Stays>(&text).ok());
    if let Some(stays) = &there {
        if stays.is_of(program) {
            return ready(stays).await.map(|()| false);
        }
        stays.running.end(ENDS_WITHIN).await?;
    }
    group.create()?;
    let failed = |source| OperatorError::Start { program: program.to_owned(), source };
    let [port] = ports::free().map_err(failed)?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let spec = ProcessSpec {
        name: "operator".to_owned(),
        program: program.to_owned(),
        args: arguments(listen, cloud),
        env: environment(kubeconfig, log).map_err(failed)?,
        log: log.to_owned(),
    };
    let running = spec.start()?;
    group.adopt(running.pid.unsigned_abs())?;
    let stays = Stays { running, listen };
    files::replace(&record, serde_json::to_string(&stays).map_err(|error| failed(error.into()))?, 0o600)?;
    ready(&stays).await.map(|()| true)
}

async fn ready(stays: &Stays) -> Result<(), OperatorError> {
    let until = Instant::now() + READY;
    while Request::get("/readyz").text(stays.listen).await.is_err() {
        if !stays.running.is_alive() || Instant::now() > until {
            return Err(OperatorError::NotReady { said: stays.running.said() });
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
