//! The API server as a client sees it: an HTTP service over the objects, on which anything can happen to a call.

use super::{Asked, Kind, Refused, Verb, refused};
use crate::case::Fault;
use crate::state::{Sim, Site};
use futures::future::BoxFuture;
use futures::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// As long a call of the operator's waits for an answer.
const ANSWER: Duration = Duration::from_secs(12);
/// As long a watch may be silent.
const SILENT: Duration = Duration::from_secs(320);
/// A bookmark comes about so often.
const BOOKMARK: Duration = Duration::from_secs(60);

/// One operator's way to the API.
#[derive(Clone)]
pub struct Service {
    sim: Arc<Sim>,
    who: usize,
}

type Told = UnsyncBoxBody<Bytes, io::Error>;

impl Service {
    /// The way of an operator.
    pub fn of(sim: Arc<Sim>, who: usize) -> Self {
        Self { sim, who }
    }
}

impl tower_service::Service<Request<Body>> for Service {
    type Response = Response<Told>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(serve(Arc::clone(&self.sim), self.who, request))
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")
}

async fn serve(sim: Arc<Sim>, who: usize, request: Request<Body>) -> io::Result<Response<Told>> {
    sim.fence(who).await;
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let content =
        head.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(asked) = Asked::read(&head.method, &head.uri, content, &body) else {
        return answer(&refused(404, "NotFound", format!("{} {}", head.method, head.uri)));
    };
    let watches = asked.verb == Verb::Watch;
    let site = if watches { Site::Watch } else { Site::Api };
    let mut call = sim.call(who, site, &asked.words());
    sleep(call.way()).await;
    let slow = sim.now() < sim.lock().api_slow && !watches;
    if slow {
        sleep(Duration::from_millis(call.rng.between(500, 8_000))).await;
    }
    sim.fence(who).await;
    match call.fault {
        Some(Fault::LostRequest) => return Err(reset()),
        Some(Fault::Conflict) if asked.verb.writes() => {
            return answer(&refused(409, "Conflict", "the object has been modified"));
        }
        Some(Fault::TooMany) => return answer(&refused(429, "TooManyRequests", "too many requests")),
        Some(Fault::Broken) => return answer(&refused(500, "InternalError", "etcdserver: leader changed")),
        Some(Fault::Slow) => sleep(Duration::from_millis(call.rng.between(200, 9_000))).await,
        Some(Fault::Hang) if call.rng.percent(50) => {
            sleep(ANSWER).await;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "timed out"));
        }
        Some(Fault::KillBefore) => sim.kill(who),
        _ => {}
    }
    sim.fence(who).await;
    if watches {
        return Ok(watch(sim, who, asked, call));
    }
    let mut said = done(&sim, who, &asked);
    if call.fault == Some(Fault::Doubled) {
        said = done(&sim, who, &asked);
    }
    if call.fault == Some(Fault::KillAfter) {
        sim.kill(who);
    }
    sleep(call.way()).await;
    if call.fault == Some(Fault::Hang) {
        sleep(ANSWER).await;
    }
    sim.fence(who).await;
    match call.fault {
        Some(Fault::LostAnswer) => Err(reset()),
        Some(Fault::Hang) => Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")),
        Some(Fault::BrokenAfter) => answer(&refused(500, "InternalError", "etcdserver: request timed out")),
        _ => answer(&said),
    }
}

/// What is asked is done, and the judge looks at it.
fn done(sim: &Sim, who: usize, asked: &Asked) -> Result<Value, Refused> {
    let now = sim.now();
    let mut state = sim.lock();
    let before = state.store.version;
    let said = asked.done(&mut state.store);
    if let Ok(object) = &said {
        match (asked.verb, asked.kind) {
            (Verb::Get, Kind::Host) => state.asked_for_host(who, &asked.name, now),
            (Verb::Create, Kind::Action) => state.judge_record(object, now),
            (Verb::Patch, Kind::Host) if asked.status => state.judge_status(who, object, now),
            (Verb::Patch, Kind::Action) => {
                if let Some(outcome) = asked.body()["status"]["outcome"].as_str() {
                    crate::coverage::count(&mut state.coverage.outcomes, outcome);
                }
            }
            _ => {}
        }
    }
    if state.store.version != before && asked.verb.writes() {
        let words = asked.words();
        if state.judge.quiet {
            state.judge.finds("quiet", now, format!("{words} in the calm: {}", asked.body()));
        }
        let body = if state.history.is_some() { asked.body().to_string() } else { String::new() };
        state.note(now, || format!("operator {who} wrote: {words} {body}"));
        state.last_write = Some((now, words));
        let found = !state.judge.found.is_empty();
        drop(state);
        sim.changed.notify_waiters();
        if found {
            sim.found.notify_waiters();
        }
    }
    said
}

fn answer(said: &Result<Value, Refused>) -> io::Result<Response<Told>> {
    let (code, body) = match said {
        Ok(value) => (200, value.to_string()),
        Err(refused) => (refused.code, status(refused).to_string()),
    };
    let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {}).boxed_unsync();
    let response = Response::builder().status(code).header(http::header::CONTENT_TYPE, "application/json");
    response.body(body).map_err(io::Error::other)
}

fn status(refused: &Refused) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": refused.message, "reason": refused.reason, "code": refused.code,
    })
}

struct Watching {
    sim: Arc<Sim>,
    who: usize,
    asked: Asked,
    cursor: u64,
    ends: Instant,
    call: crate::state::Call,
    over: bool,
}

fn watch(sim: Arc<Sim>, who: usize, asked: Asked, call: crate::state::Call) -> Response<Told> {
    let from = asked.from_version();
    let cursor = from.unwrap_or_else(|| sim.lock().store.version);
    let lasts = Duration::from_secs(asked.lasts());
    let ends = Instant::now() + if call.fault == Some(Fault::Cut) { lasts / 20 } else { lasts };
    let watching = Watching { sim, who, asked, cursor, ends, call, over: false };
    let events = stream::unfold(watching, |mut watching| async move {
        let line = watching.next().await?;
        Some((Ok::<_, io::Error>(Frame::data(Bytes::from(line))), watching))
    });
    Response::new(StreamBody::new(events).boxed_unsync())
}

impl Watching {
    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        if self.call.fault == Some(Fault::Stall) {
            // Nothing comes for a while, and then all of it; or never, until the client itself gives up.
            self.call.fault = None;
            let stalls =
                if self.call.rng.percent(20) { SILENT } else { Duration::from_secs(self.call.rng.between(5, 90)) };
            let until = Instant::now() + stalls;
            while Instant::now() < until && !self.sim.lock().calm {
                sleep(Duration::from_secs(2)).await;
            }
            if stalls == SILENT {
                return None;
            }
        }
        let quiet = Instant::now() + BOOKMARK;
        loop {
            self.sim.fence(self.who).await;
            let sim = Arc::clone(&self.sim);
            let changed = sim.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = {
                let state = self.sim.lock();
                let expired = self.cursor < state.store.compacted || self.call.fault == Some(Fault::Expired);
                if expired {
                    Some(None)
                } else {
                    let next = state.store.changes.iter().find(|change| {
                        change.version > self.cursor
                            && change.kind == self.asked.kind
                            && self.asked.selects(&change.object)
                    });
                    next.map(|change| Some((change.version, change.word, change.object.clone())))
                }
            };
            match next {
                Some(None) => {
                    self.over = true;
                    let gone = Refused { code: 410, reason: "Expired", message: "too old resource version".to_owned() };
                    return Some(format!("{}\n", json!({"type": "ERROR", "object": status(&gone)})));
                }
                Some(Some((version, word, object))) => {
                    // Each watch lags by itself, and keeps its order.
                    let lag = if self.call.rng.percent(95) { 30 } else { 3_000 };
                    sleep(Duration::from_millis(self.call.rng.between(1, lag))).await;
                    self.sim.fence(self.who).await;
                    self.cursor = version;
                    return Some(format!("{{\"type\":\"{word}\",\"object\":{object}}}\n"));
                }
                None => {}
            }
            if Instant::now() >= self.ends {
                return None;
            }
            if Instant::now() >= quiet {
                return Some(self.bookmark());
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(self.ends.min(quiet)) => {}
            }
        }
    }

    /// Where the watch is, for the client to go on from.
    fn bookmark(&mut self) -> String {
        let state = self.sim.lock();
        // Nothing that is still to be told lies behind it: that was looked for right before.
        self.cursor = self.cursor.max(state.store.version);
        let (api_version, kind) = self.asked.kind.words();
        let object =
            json!({"apiVersion": api_version, "kind": kind, "metadata": {"resourceVersion": self.cursor.to_string()}});
        format!("{}\n", json!({"type": "BOOKMARK", "object": object}))
    }
}
