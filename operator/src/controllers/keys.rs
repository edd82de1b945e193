//! The API key of Binder's servers while its Secret does not have it: what hosts tell of it is kept here, in the process
//! and nowhere else; one that they agree on is used for looking and for starts, and put into the Secret where that is
//! allowed. What is to be believed is weighed in [`binder_core::seen::keys`]. No key is ever shown.

use super::access::{self, KeyProblem};
use super::secrets::Age;
use super::{Context, Error, MANAGER, fleet};
use crate::execute::{KeyPlace, Sent};
use crate::metrics::Metrics;
use crate::observe::{self, Eyes, FleetContext};
use binder_core::facets::{How, Step};
use binder_core::gate::Permit;
use binder_core::plan::Looked;
use binder_core::seen::keys::{Found, FoundKey, InLog, KeySearch, Put, Told, candidate, together};
use binder_core::seen::{Fact, servers};
use binder_core::status::conditions::find;
use binder_crds::references::SecretKeyRef;
use binder_crds::{BinderHostSpec, Mode, PURPOSE_API_KEY, PURPOSE_LABEL, conditions};
use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, ResourceExt};
use secrecy::{ExposeSecret, SecretString};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A namespace, and what a fleet or host in it names.
type Place = (String, SecretKeyRef);

/// What hosts told, by the Secret that lacks the key and by the host's UID.
#[derive(Default)]
pub(crate) struct Search {
    told: Mutex<HashMap<Place, BTreeMap<String, Told>>>,
}

impl Search {
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, BTreeMap<String, Told>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, place: &Place, uid: &str, told: Told) {
        self.lock().entry(place.clone()).or_default().insert(uid.to_owned(), told);
    }

    fn told(&self, place: &Place) -> BTreeMap<String, Told> {
        self.lock().get(place).cloned().unwrap_or_default()
    }

    /// The Secret has the key: what was found is forgotten.
    pub(crate) fn end(&self, namespace: &str, reference: Option<&SecretKeyRef>) {
        let mut told = self.lock();
        if let Some(reference) = reference.filter(|_| !told.is_empty()) {
            told.remove(&(namespace.to_owned(), reference.clone()));
        }
    }

    /// A host is gone.
    pub(crate) fn forget(&self, uid: &str) {
        for told in self.lock().values_mut() {
            told.remove(uid);
        }
    }
}

/// A host that is looked at.
pub(super) struct About<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What it and its fleet say together.
    pub spec: &'a BinderHostSpec,
}

/// Looks at a host while the Secret lacks the key: what its servers' logs tell is taken in, and the servers are asked with
/// the one key that all logs tell, if there is one.
pub(super) async fn look(
    context: &Context,
    about: &About<'_>,
    session: &dyn Eyes,
    mut around: FleetContext,
    problem: &KeyProblem,
) -> Looked {
    let desired = &about.spec.desired;
    let unknown = || Err(problem.to_string());
    // A Secret that is not meant for it is not one that lacks the key.
    let named = about.spec.api_key_secret_ref.as_ref().filter(|_| !matches!(problem, KeyProblem::NotMeant(_)));
    let Some(reference) = named else {
        around.api_key = Some(unknown());
        return session.look(desired, &around).await;
    };
    let place = (about.namespace.to_owned(), reference.clone());
    around.search_logs = true;
    let tried = candidate(context.key_search.told(&place).values());
    around.api_key = Some(tried.as_ref().map_or_else(unknown, |key| Ok(key.secret().clone())));
    let mut looked = session.look(desired, &around).await;
    let Looked::Seen(seen) = &mut looked else { return looked };
    // What is seen of the logs ends here: what was found is in nobody's hands but ours.
    let logs = std::mem::replace(&mut seen.log_keys, Fact::NotAsked);
    context.key_search.tell(&place, about.uid, told(about.name, &logs, tried.as_ref(), &seen.servers));
    let now = candidate(context.key_search.told(&place).values());
    if let (None, Some(key)) = (&tried, now) {
        // Now that there is one, the servers are asked what they make of it.
        around.api_key = Some(Ok(key.secret().clone()));
        session.ask_servers(desired, &around, seen).await;
        context.key_search.tell(&place, about.uid, told(about.name, &logs, Some(&key), &seen.servers));
    }
    seen.key_search = Some(state(context, about, &place, problem));
    looked
}

/// What one look at a host tells: what its servers' logs hold, and what its servers make of the key that was tried.
fn told(
    host: &str,
    logs: &Fact<BTreeMap<String, InLog>>,
    tried: Option<&FoundKey>,
    servers: &Fact<servers::Servers>,
) -> Told {
    let mut told = Told { host: host.to_owned(), ..Told::default() };
    match logs {
        Fact::Seen(logs) => told.logs = logs.clone(),
        Fact::Unknown(blind) => told.unseen = Some(blind.message.clone()),
        Fact::NotAsked => {}
    }
    if let (Some(key), Fact::Seen(servers)) = (tried, servers) {
        told.tried = Some(key.clone());
        told.answers = servers.keys.iter().filter_map(|(name, key)| Some((name.clone(), taken(key)?))).collect();
    }
    told
}

fn taken(key: &servers::Key) -> Option<bool> {
    match key {
        servers::Key::Accepted => Some(true),
        servers::Key::Refused => Some(false),
        servers::Key::Silent(_) => None,
    }
}

/// The API key for a step: the Secret's, or else the one that all hosts' logs agree on.
///
/// # Errors
/// [`Error`] when the API fails.
pub(super) async fn usable(
    context: &Context,
    namespace: &str,
    reference: Option<&SecretKeyRef>,
    age: Age,
) -> Result<Result<SecretString, KeyProblem>, Error> {
    let read = access::api_key(context, namespace, reference, age).await?;
    let (Err(problem), Some(reference)) = (&read, reference) else { return Ok(read) };
    if matches!(problem, KeyProblem::NotMeant(_)) {
        return Ok(read);
    }
    let place = (namespace.to_owned(), reference.clone());
    let (found, key) = weigh(context, &place, &members(context, &place));
    Ok(match (found, key) {
        (Found::Agreed { .. }, Some(key)) => Ok(key.secret().clone()),
        _ => Err(problem.clone()),
    })
}

/// A host whose servers are started with the same key.
struct Member {
    uid: String,
    name: String,
    login: String,
    /// Whether it may tell something: nobody knows yet that it cannot be reached.
    expected: bool,
    /// Whether the step may be done as one of its.
    may_write: bool,
}

/// By name, so always the same one of several is the first.
fn members(context: &Context, place: &Place) -> Vec<Member> {
    let written = context.known();
    let mut members: Vec<Member> = Vec::new();
    for host in context.members.in_namespace(&place.0) {
        if !observe::asks_with_api_key(&host.spec.desired) {
            continue;
        }
        let fleets = fleet::governing(context, &host);
        let (spec, mode, suspended) = match fleets.as_slice() {
            [] if fleet::named_by(&host).is_some() => (host.spec.clone(), Mode::Observe, host.spec.suspend),
            [] => (host.spec.clone(), host.spec.mode.unwrap_or_default(), host.spec.suspend),
            [fleet] => {
                (fleet.spec.inherit(&host.spec), fleet::mode(fleet, &host), fleet.spec.suspend || host.spec.suspend)
            }
            _ => continue,
        };
        let (Some(uid), true) = (host.uid(), spec.api_key_secret_ref.as_ref() == Some(&place.1)) else { continue };
        let status = written.get(&uid).and_then(|known| known.status.as_ref()).or(host.status.as_ref());
        let lost = status.and_then(|status| find(status, conditions::REACHABLE)).is_some_and(|it| it.status == "False");
        let reached = context.ssh.open_session(&uid).is_some();
        let access = spec.access.as_ref();
        let allowed = access.is_some_and(|access| access.may_write_api_key);
        let port = if spec.port == 22 { String::new() } else { format!("-p {} ", spec.port) };
        let user = access.map_or("USER", |access| access.user.0.as_str());
        members.push(Member {
            uid,
            name: host.name_any(),
            login: format!("{port}{user}@{}", spec.address),
            expected: !suspended && !lost,
            may_write: allowed && mode == Mode::Enforce && !suspended && reached,
        });
    }
    members
}

/// What all hosts tell together, and the key if they tell one.
fn weigh(context: &Context, place: &Place, members: &[Member]) -> (Found, Option<FoundKey>) {
    let mut told = context.key_search.told(place);
    told.retain(|uid, _| members.iter().any(|member| member.uid == *uid));
    for member in members.iter().filter(|member| member.expected) {
        let unseen = || Told {
            host: member.name.clone(),
            unseen: Some("it has not been looked at yet".to_owned()),
            ..Told::default()
        };
        told.entry(member.uid.clone()).or_insert_with(unseen);
    }
    let mut told: Vec<&Told> = told.values().collect();
    told.sort_by(|one, other| one.host.cmp(&other.host));
    (together(told.iter().copied()), candidate(told))
}

/// How far the search is, for the host that is looked at.
fn state(context: &Context, about: &About<'_>, place: &Place, problem: &KeyProblem) -> KeySearch {
    let members = members(context, place);
    let (found, _) = weigh(context, place, &members);
    let allowed = about.spec.access.as_ref().is_some_and(|access| access.may_write_api_key);
    let writer = members.iter().find(|member| member.may_write);
    let put = match writer {
        _ if !allowed => Put::ByHand(by_hand(&members, &context.key_search.told(place))),
        Some(writer) if writer.uid != about.uid => Put::ByWayOf(writer.name.clone()),
        // Where no host may, the gate says why this one may not.
        _ => Put::Here,
    };
    KeySearch {
        namespace: place.0.clone(),
        secret: place.1.name.0.clone(),
        entry: place.1.key.clone(),
        secret_is_there: matches!(problem, KeyProblem::NoEntry { .. }),
        found,
        put,
    }
}

/// The command that prints the key from the first log that tells one, on whichever host. Names of processes are the
/// catalogue's, login and address the owner's: both are checked.
fn by_hand(members: &[Member], told: &BTreeMap<String, Told>) -> String {
    let first = members.iter().find_map(|member| Some((&member.login, told.get(&member.uid)?.logs.keys().next()?)));
    let Some((login, process)) = first else { return String::new() };
    format!(
        "ssh {login} 'grep -h \"^ - Using API key: \" $(ls -t .pm2/logs/{process}-out*.log | head -n 1)' \
         | tail -n 1 | sed 's/.*: //' | tr -d '\\n'"
    )
}

/// Where the key goes, for the step that puts it there.
pub(super) fn place(context: &Context, namespace: &str, step: &Step) -> Option<Box<dyn KeyPlace>> {
    let How::Secret { name: secret, entry } = step.how() else { return None };
    let api = context.api::<Secret>(namespace);
    let metrics = context.metrics.clone();
    Some(Box::new(SecretEntry { api, secret, entry, metrics }))
}

/// An entry of a Secret.
struct SecretEntry {
    api: Api<Secret>,
    secret: String,
    entry: String,
    metrics: Arc<Metrics>,
}

impl KeyPlace for SecretEntry {
    fn put(&self, permit: Permit, key: SecretString) -> BoxFuture<'_, Sent> {
        Box::pin(async move {
            tracing::info!(action = permit.action(), secret = self.secret, entry = self.entry, "writing the API key");
            match self.api.get_opt(&self.secret).await {
                Ok(Some(secret)) if access::field(&secret, &self.entry).is_some() => {
                    return Sent { may_have_run: false, said: "the Secret has an API key by now".to_owned() };
                }
                Ok(Some(secret)) if !access::is_meant_for(&secret, PURPOSE_API_KEY) => {
                    return Sent {
                        may_have_run: false,
                        said: format!("the Secret has not the label {PURPOSE_LABEL}={PURPOSE_API_KEY}"),
                    };
                }
                Ok(_) => {}
                Err(error) => return Sent { may_have_run: false, said: refusal(&error) },
            }
            let value = ByteString(key.expose_secret().as_bytes().to_vec());
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(self.secret.clone()),
                    // One that is made here is meant for nothing else.
                    labels: Some([(PURPOSE_LABEL.to_owned(), PURPOSE_API_KEY.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                data: Some(BTreeMap::from([(self.entry.clone(), value)])),
                ..Secret::default()
            };
            // By server-side apply and not by force: other entries stay, and so does one that somebody else wrote meanwhile.
            let parameters = PatchParams::apply(MANAGER);
            self.metrics.wrote("Secret");
            match self.api.patch(&self.secret, &parameters, &Patch::Apply(&secret)).await {
                Ok(_) => Sent { may_have_run: true, said: "written".to_owned() },
                // Whatever came of it counts as an attempt: it must not be made for ever.
                Err(error) => Sent { may_have_run: true, said: refusal(&error) },
            }
        })
    }
}

/// What the API server said, without its text, which might show what was sent.
fn refusal(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            "the API server forbids it: name the Secret in the chart's apiKeySecrets".to_owned()
        }
        kube::Error::Api(status) if status.code == 409 => "another writer set that entry meanwhile".to_owned(),
        kube::Error::Api(status) => format!("the API server answered HTTP {}", status.code),
        _ => "the API server did not answer".to_owned(),
    }
}
