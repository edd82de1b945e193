//! A server of buckets that speaks S3 over TLS, as an owner has one in the house: Versity's gateway, with one bucket.
//!
//! It is outside of Binder's machines, on loopback, with an authority of its own that no computer knows. What is in the bucket
//! are plain files, so that a test sees what was really written. Knows nothing of backups.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cgroup::{Cgroup, CgroupError};
use crate::files::{self, FileError};
use crate::lab::Lab;
use crate::pki::{Authority, PkiError, Subject};
use crate::ports;
use crate::process::{ProcessError, ProcessSpec, Running};

/// The bucket's name.
pub const BUCKET: &str = "backups";
/// The region that the server says it is in; a request is signed for it.
pub const REGION: &str = "us-east-1";
/// The name of the one account.
pub const ACCESS_KEY: &str = "binder-lab";

/// From its start until it takes connections.
const LISTENS: Duration = Duration::from_secs(20);
/// From SIGTERM to its end.
const GRACE: Duration = Duration::from_secs(5);

/// The server could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Its process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It could not be put into the lab's control group.
    #[error("the server of buckets cannot be made to end with the lab")]
    Group(#[from] CgroupError),
    /// No port to listen on.
    #[error("cannot pick a port for the server of buckets")]
    NoPort(#[source] std::io::Error),
    /// It does not listen.
    #[error("the server of buckets does not listen after {} s; it said:\n{said}", LISTENS.as_secs())]
    Silent {
        /// The end of its log.
        said: String,
    },
}

/// A server with one bucket. It ends with the lab, if nobody ends it before.
#[derive(Debug)]
pub struct Bucket {
    /// Where it answers, for clients.
    pub endpoint: String,
    /// The file with the certificate of its authority, as PEM.
    pub authority: PathBuf,
    /// The secret of its one account.
    pub secret: String,
    /// The folder of what is in the bucket.
    pub folder: PathBuf,
    spec: ProcessSpec,
    listens: SocketAddr,
    group: Cgroup,
    running: Option<Running>,
}

impl Bucket {
    /// Sets one up in a lab, and starts it. `program` is what [`crate::tools::Tools::versitygw`] gives.
    ///
    /// # Errors
    /// It does not come up; the error shows what it said.
    pub async fn start(lab: &Lab, program: &Path) -> Result<Self, BucketError> {
        let dir = lab.layout().dir().join("buckets");
        let [port] = ports::free().map_err(BucketError::NoPort)?;
        let listens = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let folder = dir.join("data").join(BUCKET);
        let aside = dir.join("aside");
        files::make_dir(&folder)?;
        files::make_dir(&aside)?;
        let (authority, _) = Authority::create("lab-buckets")?;
        let address = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let identity =
            authority.issue(&Subject::Server { name: "buckets", names: &["localhost"], addresses: &address })?;
        let file = |name: &str| dir.join(name);
        files::write(&file("ca.crt"), authority.certificate(), 0o644)?;
        files::write(&file("server.crt"), &identity.certificate, 0o644)?;
        files::write(&file("server.key"), &identity.key, 0o600)?;
        let secret = files::random_hex()?;
        let shown = |path: &Path| path.display().to_string();
        let variable = |name: &str, value: String| (name.to_owned(), value);
        let spec = ProcessSpec {
            name: "versitygw".to_owned(),
            program: program.to_owned(),
            // What is kept beside the files in attributes elsewhere has a folder of its own: not every file system has those.
            args: vec!["posix".to_owned(), "--sidecar".to_owned(), shown(&aside), shown(&dir.join("data"))],
            env: vec![
                variable("VGW_PORT", listens.to_string()),
                variable("VGW_CERT", shown(&file("server.crt"))),
                variable("VGW_KEY", shown(&file("server.key"))),
                variable("VGW_REGION", REGION.to_owned()),
                variable("ROOT_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
                variable("ROOT_SECRET_ACCESS_KEY", secret.clone()),
            ],
            log: file("versitygw.log"),
        };
        let endpoint = format!("https://{listens}");
        let group = Cgroup::of_lab(lab.layout().id())?.child("buckets");
        let authority = file("ca.crt");
        let mut bucket = Self { endpoint, authority, secret, folder, spec, listens, group, running: None };
        bucket.go_on().await?;
        Ok(bucket)
    }

    /// Ends the server; what is in the bucket stays.
    ///
    /// # Errors
    /// It cannot be ended.
    pub async fn stop(&mut self) -> Result<(), BucketError> {
        if let Some(running) = self.running.take() {
            running.end(GRACE).await?;
        }
        Ok(())
    }

    /// Starts the server again where it was, unless it runs.
    ///
    /// # Errors
    /// It does not come up; the error shows what it said.
    pub async fn go_on(&mut self) -> Result<(), BucketError> {
        if self.running.as_ref().is_some_and(Running::is_alive) {
            return Ok(());
        }
        self.group.create()?;
        let running = self.spec.start()?;
        u32::try_from(running.pid).map_or(Ok(()), |pid| self.group.adopt(pid))?;
        let until = Instant::now() + LISTENS;
        while TcpStream::connect(self.listens).is_err() {
            if Instant::now() > until || !running.is_alive() {
                return Err(BucketError::Silent { said: running.said() });
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.running = Some(running);
        Ok(())
    }
}
