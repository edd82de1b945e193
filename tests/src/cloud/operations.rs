//! The operations that changing calls leave behind, as data.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::inventory::Machine;

/// What is done to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Reset,
    Start,
    Stop,
    SetMetadata,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::SetMetadata => "setMetadata",
        }
    }
}

/// One operation.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) zone: &'static str,
    id: u64,
    kind: Kind,
    instance: &'static str,
    inserted: Timestamp,
    /// When it ended, and how.
    ended: Option<(Timestamp, Result<(), String>)>,
}

impl Operation {
    /// The operation resource. `zone_url` is the URL of its zone.
    pub(super) fn describe(&self, zone_url: &str) -> Value {
        let mut text = json!({
            "kind": "compute#operation",
            "id": self.id.to_string(),
            "name": self.name,
            "zone": zone_url,
            "selfLink": format!("{zone_url}/operations/{}", self.name),
            "targetLink": format!("{zone_url}/instances/{}", self.instance),
            "operationType": self.kind.name(),
            "insertTime": self.inserted.to_string(),
            "startTime": self.inserted.to_string(),
            "status": if self.ended.is_some() { "DONE" } else { "RUNNING" },
            "progress": if self.ended.is_some() { 100 } else { 0 },
        });
        if let Some((at, outcome)) = &self.ended {
            text["endTime"] = json!(at.to_string());
            if let Err(message) = outcome {
                text["error"] = json!({"errors": [{"code": "INTERNAL_ERROR", "message": message}]});
                text["httpErrorStatusCode"] = json!(500);
                text["httpErrorMessage"] = json!("INTERNAL SERVER ERROR");
            }
        }
        text
    }
}

/// Every operation since the lab came up.
#[derive(Debug, Default)]
pub(super) struct Operations {
    book: Mutex<Book>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Book {
    by_name: BTreeMap<String, Operation>,
    /// Which operation a `requestId` began.
    by_request: BTreeMap<String, String>,
    last: u64,
}

impl Operations {
    fn book(&self) -> MutexGuard<'_, Book> {
        // No change leaves the book half written.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation, or finds the one that the same request began; says whether it is new.
    pub(super) fn begin(&self, kind: Kind, machine: &Machine, request: Option<String>) -> (Operation, bool) {
        let mut book = self.book();
        let known = request.as_ref().and_then(|request| book.by_request.get(request));
        if let Some(operation) = known.and_then(|name| book.by_name.get(name)) {
            return (operation.clone(), false);
        }
        book.last += 1;
        let id = book.last;
        let operation = Operation {
            name: format!("operation-{id}-{}-{}", kind.name(), machine.name),
            zone: machine.zone,
            id,
            kind,
            instance: machine.name,
            inserted: Timestamp::now(),
            ended: None,
        };
        if let Some(request) = request {
            book.by_request.insert(request, operation.name.clone());
        }
        book.by_name.insert(operation.name.clone(), operation.clone());
        (operation, true)
    }

    /// The operation that a request began.
    pub(super) fn of_request(&self, request: &str) -> Option<Operation> {
        let book = self.book();
        book.by_request.get(request).and_then(|name| book.by_name.get(name)).cloned()
    }

    /// Writes down how one ended.
    pub(super) fn finish(&self, name: &str, outcome: Result<(), String>, at: Timestamp) {
        if let Some(operation) = self.book().by_name.get_mut(name) {
            operation.ended = Some((at, outcome));
        }
        self.news.notify_waiters();
    }

    pub(super) fn get(&self, name: &str) -> Option<Operation> {
        self.book().by_name.get(name).cloned()
    }

    /// What is being done to an instance now; the latest, when it is several things.
    pub(super) fn under_way(&self, instance: &str) -> Option<Kind> {
        let book = self.book();
        let open = book.by_name.values().filter(|found| found.instance == instance && found.ended.is_none());
        open.max_by_key(|found| found.id).map(|found| found.kind)
    }

    /// Waits until an operation has ended. One that does not exist never does: whoever asks has a limit.
    pub(super) async fn finished(&self, name: &str) {
        loop {
            let news = self.news.notified();
            if self.get(name).is_some_and(|operation| operation.ended.is_some()) {
                return;
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::inventory::{Role, with_role};

    #[test]
    fn a_request_that_is_repeated_begins_nothing() {
        let operations = Operations::default();
        let master = with_role(Role::Master);
        let (first, new) = operations.begin(Kind::Reset, master, Some("a".into()));
        assert!(new);
        let (again, new) = operations.begin(Kind::Reset, master, Some("a".into()));
        assert!(!new);
        assert_eq!(first.name, again.name);
        assert!(operations.begin(Kind::Reset, master, Some("b".into())).1);
        assert!(operations.begin(Kind::Reset, master, None).1);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_end() {
        let operations = Operations::default();
        let (one, _) = operations.begin(Kind::Stop, with_role(Role::Services), None);
        assert_eq!(operations.under_way("binder-services"), Some(Kind::Stop));
        let waiting = operations.finished(&one.name);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        operations.finish(&one.name, Err("no".into()), Timestamp::UNIX_EPOCH);
        waiting.await;
        assert_eq!(operations.under_way("binder-services"), None);
        let text = operations.get(&one.name).unwrap().describe("http://x/zones/z");
        assert_eq!(
            (text["status"].as_str(), text["error"]["errors"][0]["message"].as_str()),
            (Some("DONE"), Some("no"))
        );
    }
}
