//! A step as what carries it out: a command on the host, a call to one of its servers, a call to the cloud. No judgement
//! here: which step, and whether, was decided above; whether it worked is seen by a later look.
//!
//! [`carry_out`] is the only way from a step to a side effect. It takes the gate's [`Permit`] by value, and so does
//! everything below it that changes something.

mod command;
mod database;
mod routes;

use crate::backup::store::{Keep, Store};
use crate::chain::chain;
use crate::hosts::Session;
use crate::power::{KeyAdded, Power, SshKey, State};
use binder_core::facets::Step;
use binder_core::gate::Permit;
use binder_core::plan::memory::EXIT_CODE;
use futures::future::BoxFuture;
use secrecy::SecretString;
use std::sync::Arc;

/// What can be done through an open connection to a machine.
pub trait Hands: Send + Sync {
    /// The UID of the `BinderHost` whose machine this is.
    fn host(&self) -> &str;

    /// Carries out a step that is done on the machine. The permit is spent.
    fn carry_out<'a>(
        &'a self,
        step: &'a Step,
        permit: Permit,
        with: With,
    ) -> BoxFuture<'a, Result<Sent, CannotExecute>>;
}

/// What a step that is done on a machine may need besides.
#[derive(Default)]
pub struct With {
    /// The API key of Binder's servers.
    pub api_key: Option<SecretString>,
    /// Where backups lie.
    pub backups: Option<Backups>,
    /// The port of the build server on that machine, as its settings say.
    pub build_server: Option<u16>,
}

/// Everything that a step may be carried out with. What a step needs and is not there is said, and nothing is done.
#[derive(Default)]
pub struct Means<'a> {
    /// The connection to the host; absent when it does not answer.
    pub session: Option<&'a dyn Hands>,
    /// The API key of Binder's servers, for the steps that need it ([`Step::needs_api_key`]).
    pub api_key: Option<SecretString>,
    /// The host's power, for the steps that need it ([`Step::needs_power`]): absent when none is described, or in words why
    /// it cannot be had.
    pub power: Option<Result<Box<dyn Power>, String>>,
    /// The open connection to the host with the build server, and that server's port, for the steps that are done there
    /// ([`Step::goes_to_build_server`]).
    pub build_server: Option<(Arc<dyn Hands>, u16)>,
    /// The Secret that is to have the API key, for the step that puts it there ([`Step::WriteApiKey`]).
    pub key_place: Option<Box<dyn KeyPlace>>,
    /// Where backups lie, for the step that makes one ([`Step::BackUp`]).
    pub backups: Option<Backups>,
}

/// The Secret that is to have the API key.
pub trait KeyPlace: Send + Sync {
    /// Puts the key there, beside whatever else is there, unless there is one by now. The permit is spent. Gives what came
    /// of it.
    fn put(&self, permit: Permit, key: SecretString) -> BoxFuture<'_, Sent>;
}

/// Where backups lie, and which of them are kept.
#[derive(Clone, Debug)]
pub struct Backups {
    /// The place.
    pub store: Store,
    /// What is kept.
    pub keep: Keep,
}

/// A step cannot be carried out; nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum CannotExecute {
    /// The step needs the API key and the fleet names no Secret for it.
    #[error("starting {component} needs the API key, and no Secret is named for it: set spec.apiKeySecretRef")]
    NoApiKey {
        /// The component.
        component: String,
    },
    /// An owner's own process has an empty start command.
    #[error("{component} has no command to start it: set processes[].start")]
    NoCommand {
        /// The component.
        component: String,
    },
    /// The step is done by the host's cloud, and nobody says how to ask it.
    #[error("nobody described how to power-cycle the machine: set spec.power")]
    NoPower,
    /// The step is no command: [`carry_out`] knows another way.
    #[error("this step is no command on the host")]
    NoCommandLine,
    /// The cloud cannot be asked.
    #[error("the machine's cloud cannot be asked: {0}")]
    PowerUnusable(String),
    /// The login or the key cannot be what it should be.
    #[error("the key cannot be added to the instance")]
    BadKey(#[source] binder_crds::text::BadText),
    /// The step is done on the host, and there is no connection to it.
    #[error("there is no connection to the host")]
    NotConnected,
    /// The step is done by the build server, and there is no connection to its host.
    #[error("there is no connection to the host with the build server")]
    NoBuildServer,
    /// The API key has nowhere to go, or is not known any more.
    #[error("the API key is not known any more, or no Secret is named for it")]
    NoKeyPlace,
    /// A backup has nowhere to go.
    #[error("there is no place for backups that can be used")]
    NoPlaceForBackups,
    /// A step came to where steps of another kind are carried out: a bug.
    #[error("the step is carried out elsewhere")]
    NotHere,
}

/// What became of carrying a step out. Whether it helped is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Whether it may have had an effect. False: it surely had none.
    pub may_have_run: bool,
    /// What was said, clean and bounded. Told for a person's sake; no outcome rests on it.
    pub said: String,
}

impl From<CannotExecute> for Sent {
    fn from(why: CannotExecute) -> Self {
        Self { may_have_run: false, said: why.to_string() }
    }
}

/// Carries a step out and says what became of it.
pub async fn carry_out(step: &Step, permit: Permit, means: Means<'_>) -> Sent {
    let sent = match step {
        Step::PowerCycle { .. } | Step::PowerOn { .. } | Step::AuthorizeKey { .. } | Step::RestartNode { .. } => {
            by_the_cloud(step, permit, means).await
        }
        Step::WriteApiKey { .. } => match (means.key_place, means.api_key) {
            (Some(place), Some(key)) => Ok(place.put(permit, key).await),
            _ => Err(CannotExecute::NoKeyPlace),
        },
        _ => {
            let build_server = means.build_server.as_ref().map(|(_, port)| *port);
            let with = With { api_key: means.api_key, backups: means.backups, build_server };
            match (means.build_server, means.session) {
                (Some((build, _)), _) if step.goes_to_build_server() => {
                    let permit = permit.by_way_of(build.host());
                    build.carry_out(step, permit, with).await
                }
                (None, _) if step.goes_to_build_server() => Err(CannotExecute::NoBuildServer),
                (_, Some(session)) => session.carry_out(step, permit, with).await,
                (_, None) => Err(CannotExecute::NotConnected),
            }
        }
    };
    sent.unwrap_or_else(Sent::from)
}

/// A step that the machine's cloud does.
async fn by_the_cloud(step: &Step, permit: Permit, means: Means<'_>) -> Result<Sent, CannotExecute> {
    let power = means.power.ok_or(CannotExecute::NoPower)?.map_err(CannotExecute::PowerUnusable)?;
    let done = match step {
        Step::PowerOn { .. } => power.start(permit).await.map(|()| "the cloud has started it"),
        Step::AuthorizeKey { user, public_key } => {
            let key = SshKey::new(user, public_key).map_err(CannotExecute::BadKey)?;
            power.add_ssh_key(permit, key).await.map(|added| match added {
                KeyAdded::Added => "the key was added",
                KeyAdded::AlreadyThere => "the key was there already: what refuses the login is on the machine",
            })
        }
        Step::RestartNode { .. } => match power.state().await {
            Ok(instance) if instance.state == State::Stopped => {
                power.start(permit).await.map(|()| "the cloud has started it")
            }
            Ok(_) => power.reset(permit).await.map(|()| "the cloud has reset it"),
            Err(error) => Err(error),
        },
        _ => power.reset(permit).await.map(|()| "the cloud has reset it"),
    };
    Ok(match done {
        Ok(said) => Sent { may_have_run: true, said: said.to_owned() },
        Err(error) => Sent { may_have_run: error.may_have_happened(), said: chain(&error) },
    })
}

impl Hands for Session {
    fn host(&self) -> &str {
        self.host()
    }

    fn carry_out<'a>(
        &'a self,
        step: &'a Step,
        permit: Permit,
        with: With,
    ) -> BoxFuture<'a, Result<Sent, CannotExecute>> {
        Box::pin(async move {
            match step {
                Step::DeleteRoutes { routes, port } => Ok(routes::delete(self, permit, routes, *port).await),
                Step::FailBuild { .. }
                | Step::RebuildBuild { .. }
                | Step::FailUnusableBuild { .. }
                | Step::BackUp { .. } => database::carry_out(self, step, permit, with).await,
                _ => on_the_host(self, step, permit, with).await,
            }
        })
    }
}

/// A step that is a command over SSH.
async fn on_the_host(session: &Session, step: &Step, permit: Permit, with: With) -> Result<Sent, CannotExecute> {
    let change = command::command(step, with.api_key)?;
    Ok(match session.change(permit, change).await {
        Ok(ran) => {
            let end = match (ran.timed_out, ran.exit, &ran.signal) {
                (true, ..) => "stopped at its time limit".to_owned(),
                (false, Some(exit), _) => format!("{EXIT_CODE}{exit}"),
                (false, None, Some(signal)) => format!("ended by {signal}"),
                (false, None, None) => "ended".to_owned(),
            };
            let said = if ran.output.is_empty() { end } else { format!("{end}: {}", ran.output) };
            Sent { may_have_run: true, said }
        }
        Err(error) => Sent { may_have_run: error.may_have_run(), said: error.to_string() },
    })
}
