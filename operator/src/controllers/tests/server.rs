//! The API in memory, as far as one pass uses it: objects by their path, created once, read, listed by labels, merged,
//! deleted. It keeps a list of what it was asked, and answers what a test tells it to. It validates nothing and watches nothing:
//! the real one does, in `tests/tests/api`.

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a test answers in the server's stead: by method and path, an HTTP status.
type Refuses = Box<dyn Fn(&Method, &str) -> Option<u16> + Send>;

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// `METHOD path` of each request, with the query where there is one.
    asked: Vec<String>,
    refuses: Option<Refuses>,
}

/// The API.
#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

impl Server {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of it.
    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        Client::new(service, "binder")
    }

    /// Puts an object there, whatever was there before, and gives it as it then is.
    pub(super) fn put(&self, collection: &str, object: Value) -> Value {
        let mut state = self.lock();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let object = state.stamped(object);
        state.objects.insert(format!("{collection}/{name}"), object.clone());
        object
    }

    /// Takes an object away behind everybody's back.
    pub(super) fn remove(&self, path: &str) {
        self.lock().objects.remove(path);
    }

    /// An object.
    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// What was asked since this was asked last.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().asked)
    }

    /// Has some requests refused with an HTTP status.
    pub(super) fn refuse(&self, refuses: impl Fn(&Method, &str) -> Option<u16> + Send + 'static) {
        self.lock().refuses = Some(Box::new(refuses));
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        let mut state = self.lock();
        let shown = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        state.asked.push(format!("{} {shown}", head.method));
        let refused = state.refuses.as_ref().and_then(|refuses| refuses(&head.method, &path));
        let (code, answer) = match refused {
            Some(code) => (code, failure(code)),
            None => state.serve(&head.method, &path, &query, body),
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&answer).unwrap_or_default()));
        *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    }
}

impl State {
    fn stamped(&mut self, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let metadata = &mut object["metadata"];
        metadata["namespace"] = json!("binder");
        metadata["resourceVersion"] = json!(version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{version}"));
            metadata["creationTimestamp"] = json!("2026-11-01T00:00:00Z");
        }
        object
    }

    fn serve(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (u16, Value) {
        let (of, subresource) = match path.strip_suffix("/status") {
            Some(of) => (of, true),
            None => (path, false),
        };
        match *method {
            Method::GET if self.objects.contains_key(of) => (200, self.objects[of].clone()),
            // A collection's path ends with its plural.
            Method::GET if of.ends_with('s') && of.matches('/').count() < 7 => (200, self.list(of, query)),
            Method::GET => (404, failure(404)),
            Method::POST if path.contains("/events") => (201, body),
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let at = format!("{path}/{name}");
                if self.objects.contains_key(&at) {
                    return (
                        409,
                        json!({"kind": "Status", "status": "Failure", "reason": "AlreadyExists", "code": 409}),
                    );
                }
                let mut object = self.stamped(body);
                object["metadata"]["managedFields"] =
                    json!([{"manager": super::MANAGER, "operation": "Update", "fieldsV1": {"f:spec": {}}}]);
                self.objects.insert(at, object.clone());
                (201, object)
            }
            Method::PATCH => {
                let known = self.objects.get(of).cloned();
                let Some(mut object) = known.or_else(|| (!subresource).then(|| json!({}))) else {
                    return (404, failure(404));
                };
                merge(&mut object, &body);
                let object = self.stamped(object);
                self.objects.insert(of.to_owned(), object.clone());
                (200, object)
            }
            Method::DELETE => match self.objects.remove(of) {
                Some(gone) => (200, gone),
                None => (404, failure(404)),
            },
            _ => (405, failure(405)),
        }
    }

    fn list(&self, collection: &str, query: &str) -> Value {
        let wanted: Vec<(String, String)> = query
            .split('&')
            .filter_map(|part| part.strip_prefix("labelSelector="))
            .flat_map(|selector| {
                selector
                    .replace("%3D", "=")
                    .replace("%2F", "/")
                    .replace("%2C", ",")
                    .split(',')
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter_map(|one| one.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
            .collect();
        let named = query.split('&').find_map(|part| part.strip_prefix("fieldSelector=metadata.name%3D"));
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, _)| path.rsplit_once('/').is_some_and(|(of, _)| of == collection))
            .map(|(_, object)| object)
            .filter(|object| named.is_none_or(|named| object["metadata"]["name"] == named))
            .filter(|object| wanted.iter().all(|(key, value)| object["metadata"]["labels"][key] == **value))
            .collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }
}

fn failure(code: u16) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        403 => "Forbidden",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code})
}

/// As a merge patch (RFC 7396) does.
fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in fields {
                if value.is_null() {
                    if let Some(into) = into.as_object_mut() {
                        into.remove(key);
                    }
                } else {
                    merge(&mut into[key], value);
                }
            }
        }
        other => *into = other.clone(),
    }
}
