//! Carries a step out. Knows *how* a step is done ([`How`]: a command on the host, a call to the cloud or to a server, an edit
//! of the database, an entry of a Secret, a backup), and no step by name. No judgement here: which step, and whether, was
//! decided above; whether it worked is seen by a later look.
//!
//! [`carry_out`] is the only way from a step to a side effect. It takes the gate's [`Permit`] by value, and so does
//! everything below it that changes something.

mod database;
mod http;
mod routes;

use crate::backup::store::{Keep, Store};
use crate::chain::chain;
use crate::hosts::{Change, Session};
use crate::power::{KeyAdded, Power, SshKey, State};
use binder_core::facets::step::{CloudCall, Command, HttpCall, Stdin};
use binder_core::facets::{How, Step};
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
    /// The Secret that is to have the API key, for the step that puts it there ([`How::Secret`]).
    pub key_place: Option<Box<dyn KeyPlace>>,
    /// Where backups lie, for the step that makes one ([`How::Backup`]).
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
    #[error("to {what} takes the API key, and no Secret is named for it: set spec.apiKeySecretRef")]
    NoApiKey {
        /// The step in words.
        what: String,
    },
    /// What is described is not enough to do it.
    #[error("{0}")]
    Impossible(String),
    /// The step is done by the host's cloud, and nobody says how to ask it.
    #[error("spec.power is not set, so the machine cannot be power-cycled")]
    NoPower,
    /// The cloud cannot be asked.
    #[error("the machine's cloud cannot be asked: {0}")]
    PowerUnusable(String),
    /// The login or the key cannot be what it should be.
    #[error("the key cannot be added to the instance")]
    BadKey(#[source] binder_crds::text::BadText),
    /// The step is done on the host, and there is no connection to it.
    #[error("no connection to the host")]
    NotConnected,
    /// The step is done by the build server, and there is no connection to its host.
    #[error("no connection to the host with the build server")]
    NoBuildServer,
    /// The API key has nowhere to go, or is not known any more.
    #[error("the API key is not known any more, or no Secret is named for it")]
    NoKeyPlace,
    /// A backup has nowhere to go.
    #[error("no usable place for backups")]
    NoPlaceForBackups,
    /// A connection to a machine is no way to do it.
    #[error("the step is not carried out on the host")]
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
    let sent = match step.how() {
        How::Cloud(call) => by_the_cloud(call, permit, means.power).await,
        How::Http(HttpCall::Build { .. }) => match means.build_server {
            Some((build, port)) => {
                let with = With { api_key: means.api_key, build_server: Some(port), ..With::default() };
                build.carry_out(step, permit, with).await
            }
            None => Err(CannotExecute::NoBuildServer),
        },
        How::Command(Command { stdin: Stdin::ApiKey, .. }) if means.api_key.is_none() => {
            Err(CannotExecute::NoApiKey { what: step.words() })
        }
        How::Command(_) | How::Http(HttpCall::DeleteRoutes { .. }) | How::Database { .. } | How::Backup { .. } => {
            match means.session {
                Some(session) => {
                    let with = With { api_key: means.api_key, backups: means.backups, ..With::default() };
                    session.carry_out(step, permit, with).await
                }
                None => Err(CannotExecute::NotConnected),
            }
        }
        How::Secret { .. } => match (means.key_place, means.api_key) {
            (Some(place), Some(key)) => Ok(place.put(permit, key).await),
            _ => Err(CannotExecute::NoKeyPlace),
        },
        How::Impossible(why) => Err(CannotExecute::Impossible(why)),
    };
    sent.unwrap_or_else(Sent::from)
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
            match step.how() {
                How::Command(command) => {
                    Ok(on_the_host(change(command, &step.words(), with.api_key)?, permit, self).await)
                }
                How::Http(call) => http::carry_out(call, &step.words(), permit, self, with).await,
                How::Database { place, edit } => Ok(database::edit(&place, edit, permit, self).await),
                How::Backup { place } => database::back_up(&place, permit, self, with.backups).await,
                How::Cloud(_) | How::Secret { .. } => Err(CannotExecute::NotHere),
                How::Impossible(why) => Err(CannotExecute::Impossible(why)),
            }
        })
    }
}

/// How much of what a command says is kept, in characters.
const SAID: usize = 400;

/// A command as the transport takes it; `what` it is for, in words.
///
/// # Errors
/// [`CannotExecute::NoApiKey`] when it reads the API key and there is none.
fn change(command: Command, what: &str, api_key: Option<SecretString>) -> Result<Change, CannotExecute> {
    let Command { name, script, args, stdin, limit } = command;
    let stdin = match stdin {
        Stdin::Nothing => None,
        Stdin::ApiKey => Some(api_key.ok_or_else(|| CannotExecute::NoApiKey { what: what.to_owned() })?),
    };
    Ok(Change { name, script, args, stdin, limit, max_output: SAID })
}

/// A call to the machine's cloud.
async fn by_the_cloud(
    call: CloudCall,
    permit: Permit,
    power: Option<Result<Box<dyn Power>, String>>,
) -> Result<Sent, CannotExecute> {
    let power = power.ok_or(CannotExecute::NoPower)?.map_err(CannotExecute::PowerUnusable)?;
    let started = "the cloud has started it";
    let reset = "the cloud has reset it";
    let done = match call {
        CloudCall::Reset => power.reset(permit).await.map(|()| reset),
        CloudCall::Start => power.start(permit).await.map(|()| started),
        CloudCall::RestartNode { .. } => match power.state().await {
            Ok(instance) if instance.state == State::Stopped => power.start(permit).await.map(|()| started),
            Ok(_) => power.reset(permit).await.map(|()| reset),
            Err(error) => Err(error),
        },
        CloudCall::AddKey { user, public_key } => {
            let key = SshKey::new(&user, &public_key).map_err(CannotExecute::BadKey)?;
            power.add_ssh_key(permit, key).await.map(|added| match added {
                KeyAdded::Added => "the key was added",
                KeyAdded::AlreadyThere => "the key was there already: what refuses the login is on the machine",
            })
        }
    };
    Ok(match done {
        Ok(said) => Sent { may_have_run: true, said: said.to_owned() },
        Err(error) => Sent { may_have_run: error.may_have_happened(), said: chain(&error) },
    })
}

/// A command over SSH.
async fn on_the_host(change: Change, permit: Permit, session: &Session) -> Sent {
    match session.change(permit, change).await {
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
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use binder_core::catalogue::Start;
    use binder_core::facets::services;

    fn start_web() -> Step {
        let start = Start::Server { name: "web".to_owned() };
        services::Step::StartProcess { component: "web".to_owned(), start, path: None }.into()
    }

    #[test]
    fn the_api_key_is_in_no_argument() {
        let How::Command(command) = start_web().how() else { panic!("{:?}", start_web().how()) };
        let change = change(command, "start web", Some("s3cret-key".into())).unwrap();
        assert!(change.stdin.is_some());
        assert!(!format!("{change:?}").contains("s3cret-key"));
    }

    #[tokio::test]
    async fn what_lacks_its_means_is_surely_not_done() {
        let permit = || crate::hosts::tests::permit("uid-1", "web-1");
        let sent = carry_out(&start_web(), permit(), Means::default()).await;
        assert!(!sent.may_have_run && sent.said.contains("set spec.apiKeySecretRef"), "{sent:?}");
        let steps: Vec<serde_json::Value> = serde_json::from_str(include_str!("../../core/tests/steps.json")).unwrap();
        for step in steps {
            let step: Step = serde_json::from_value(step["parameters"].clone()).unwrap();
            let sent = carry_out(&step, permit(), Means::default()).await;
            assert!(!sent.may_have_run && !sent.said.is_empty(), "{step:?}: {sent:?}");
        }
    }
}
