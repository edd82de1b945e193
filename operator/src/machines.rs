//! Everything that the operator reaches beyond the Kubernetes API: machines, their clouds, the places for backups, and what
//! the network says where it runs. As traits, with the one implementation that is real: the controllers above know no other
//! way out, so that whoever starts them may put them into another world.
//!
//! Judges nothing, and knows nothing of the Kubernetes API.

use crate::backup::BackupError;
use crate::backup::store::{self, Store};
use crate::clock::{Clock, Dice};
use crate::config::Config;
use crate::execute::Hands;
use crate::hosts::{
    Connect, ConnectError, Greeting, Jitter, Kept, Limits, Networks, Room, Session, Ssh, Target, Tcp, knock,
    random_jitter,
};
use crate::observe::Eyes;
use crate::power::gce::Gce;
use crate::power::{Power, PowerError};
use binder_core::plan::outage::Addressed;
use binder_crds::desired::BackupPlace;
use binder_crds::references::GceHost;
use futures::future::{BoxFuture, FutureExt};
use secrecy::SecretString;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a name may take to resolve: as long as a resolver tries one server.
const RESOLVES_WITHIN: Duration = Duration::from_secs(5);
/// As many addresses of one name are looked at.
const ADDRESSES: usize = 64;

/// An open connection to a machine: what can be asked and done through it.
pub trait Machine: Kept + Eyes + Hands {}

impl Machine for Session {}

/// The way to everything else than the Kubernetes API.
pub trait Outside: Connect<dyn Machine> {
    /// What the operator itself hears from an sshd, over a connection that logs in nowhere. `limit` is for the connection,
    /// and again for the greeting.
    fn knock<'a>(&'a self, address: &'a str, port: u16, limit: Duration) -> BoxFuture<'a, Greeting>;

    /// What a described address is, where the operator runs.
    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Addressed>;

    /// The power of a described instance. `credentials` is what the cloud's Secret holds.
    ///
    /// # Errors
    /// The description or the credentials cannot be used; nothing was asked of anybody.
    fn cloud(&self, described: &GceHost, credentials: &SecretString) -> Result<Box<dyn Power>, PowerError>;

    /// Where the backups of a host lie. `secret` holds the entries of the Secret that a bucket names.
    ///
    /// # Errors
    /// [`BackupError::Place`] says what the owner or the operator's administrator has to put right.
    fn store(
        &self,
        place: &BackupPlace,
        namespace: &str,
        host: &str,
        secret: &BTreeMap<String, SecretString>,
    ) -> Result<Store, BackupError>;
}

/// What the controllers are started in.
#[derive(Clone)]
pub struct Surroundings {
    /// The way out.
    pub outside: Arc<dyn Outside>,
    /// The operator's clock.
    pub clock: Clock,
    /// Chance.
    pub dice: Dice,
    /// Picks how long an attempt to connect waits after failures.
    pub jitter: Jitter,
}

impl Surroundings {
    /// The real ones, as the flags say.
    pub fn real(config: &Config) -> Self {
        let limits = Limits { room: Room::new(config.look_bytes()), networks: config.networks(), ..Limits::default() };
        Self::over(Ssh::over(Arc::new(Tcp(config.networks())), limits), random_jitter(), config)
    }

    /// The real ones, with machines that are reached so.
    pub fn over(ssh: Ssh, jitter: Jitter, config: &Config) -> Self {
        let outside = Real {
            ssh,
            networks: config.networks(),
            gce: Gce::new(config.gce_endpoint.clone()),
            volume: config.backups_dir.clone(),
            ambient_identity: config.allow_ambient_cloud_identity,
        };
        Self { outside: Arc::new(outside), clock: Clock::system(), dice: Dice::random(), jitter }
    }
}

/// SSH, Compute Engine, buckets and the operator's own volume.
struct Real {
    ssh: Ssh,
    networks: Networks,
    gce: Gce,
    volume: Option<PathBuf>,
    ambient_identity: bool,
}

impl Connect<dyn Machine> for Real {
    fn connect<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Arc<dyn Machine>, ConnectError>> {
        async move {
            let session: Arc<dyn Machine> = self.ssh.session(target).await?;
            Ok(session)
        }
        .boxed()
    }
}

impl Outside for Real {
    fn knock<'a>(&'a self, address: &'a str, port: u16, limit: Duration) -> BoxFuture<'a, Greeting> {
        knock(address, port, &self.networks, limit).boxed()
    }

    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Addressed> {
        async move {
            if let Ok(literal) = address.parse::<IpAddr>() {
                return Addressed::At(BTreeSet::from([literal]));
            }
            match tokio::time::timeout(RESOLVES_WITHIN, tokio::net::lookup_host((address, 0))).await {
                Ok(Ok(found)) => {
                    let found: BTreeSet<IpAddr> = found.map(|at| at.ip()).take(ADDRESSES).collect();
                    if found.is_empty() { Addressed::Unresolved } else { Addressed::At(found) }
                }
                Ok(Err(_)) | Err(_) => Addressed::Unresolved,
            }
        }
        .boxed()
    }

    fn cloud(&self, described: &GceHost, credentials: &SecretString) -> Result<Box<dyn Power>, PowerError> {
        let instance = self.gce.instance(described, credentials)?;
        Ok(Box::new(instance))
    }

    fn store(
        &self,
        place: &BackupPlace,
        namespace: &str,
        host: &str,
        secret: &BTreeMap<String, SecretString>,
    ) -> Result<Store, BackupError> {
        let means = store::Means { volume: self.volume.as_deref(), ambient_identity: self.ambient_identity };
        Store::described(place, means, namespace, host, secret)
    }
}
