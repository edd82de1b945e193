//! How Binder's servers answer to the API key, and what the health server says of the others.

use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What the health checker gives a verdict on, as `/health/` names it.
pub const JUDGED: [&str; 2] = ["deploy", "build"];

/// What a server makes of the API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// It takes it; whatever else it answered.
    Accepted,
    /// It answers 403: it was started with another one.
    Refused,
    /// It does not answer, and why, in words that do not change from look to look.
    Silent(String),
}

/// What the servers of a host said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// What each of the host's own servers makes of the key, by the server's name.
    pub keys: BTreeMap<String, Key>,
    /// What `/health/` says, or why that is not known; `None` where no health server is described.
    pub health: Option<Result<Health, String>>,
    /// What of [`JUDGED`] works when it is asked as the health checker asks, as far as that changes nothing.
    pub works: BTreeSet<String>,
}

/// What `/health/` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The verdicts, by name.
    pub verdicts: BTreeMap<String, Verdict>,
}

/// One verdict of the health checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `running`, or else `down`.
    pub running: bool,
    /// When it was written, seconds since 1970 by the clock of the checker's host.
    pub at: i64,
}

/// Reads an answer to `GET /health/`. Names that nobody judges are passed over.
///
/// # Errors
/// It is not what the health server says.
pub fn health(body: &[u8]) -> Result<Health, String> {
    #[derive(Deserialize)]
    struct Entry {
        name: String,
        status: String,
        timestamp: String,
    }
    let not = || "its answer is not what /health/ says".to_owned();
    let entries: Vec<Entry> = serde_json::from_slice(body).map_err(|_| not())?;
    let mut health = Health::default();
    for entry in entries {
        let Some(name) = JUDGED.iter().find(|name| **name == entry.name) else { continue };
        let running = match entry.status.as_str() {
            "running" => true,
            "down" => false,
            _ => return Err(not()),
        };
        let at = entry.timestamp.parse::<Timestamp>().map_err(|_| not())?.as_second();
        // Several of one name: the last word counts.
        let verdict = Verdict { running, at };
        let newest = health.verdicts.get(*name).copied().filter(|known| known.at > at).unwrap_or(verdict);
        health.verdicts.insert((*name).to_owned(), newest);
    }
    Ok(health)
}

/// How the wrong word of the health checker is marked.
pub fn mark(name: &str) -> String {
    format!("health says that {name} is down")
}

/// What is said to be down and works: how long that lasts matters.
pub(super) fn marks(servers: &Servers) -> BTreeSet<String> {
    let Some(Ok(health)) = &servers.health else { return BTreeSet::new() };
    let wrong = |(name, verdict): &(&String, &Verdict)| !verdict.running && servers.works.contains(*name);
    health.verdicts.iter().filter(wrong).map(|(name, _)| mark(name)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn verdicts_are_read_with_their_times() {
        let said = br#"[
            {"_id":"5","name":"deploy","status":"running","timestamp":"2016-06-01T12:00:00.500Z"},
            {"_id":"6","name":"build","status":"down","timestamp":"2016-06-01T12:00:40.000Z"},
            {"_id":"7","name":"build","status":"running","timestamp":"2016-06-01T11:00:40.000Z"},
            {"_id":"8","name":"$(reboot)","status":"running","timestamp":"2016-06-01T11:00:40.000Z"}]"#;
        let health = health(said).unwrap();
        assert_eq!(health.verdicts["deploy"], Verdict { running: true, at: 1_464_782_400 });
        assert_eq!(health.verdicts["build"], Verdict { running: false, at: 1_464_782_440 });
        assert_eq!(health.verdicts.len(), 2);
    }

    #[test]
    fn what_is_no_status_is_no_verdict() {
        for said in [
            &b"Forbidden"[..],
            b"{}",
            br#"[{"name":"deploy","status":"up","timestamp":"2016-06-01T12:00:00Z"}]"#,
            br#"[{"name":"deploy","status":"running","timestamp":"yesterday"}]"#,
        ] {
            assert!(health(said).is_err());
        }
        assert_eq!(health(b"[]").unwrap(), Health::default());
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(body in proptest::collection::vec(any::<u8>(), 0..400), status in ".{0,20}", time in ".{0,40}") {
            let _ = health(&body);
            let entry = serde_json::json!([{"name": "deploy", "status": status, "timestamp": time}]);
            let _ = health(entry.to_string().as_bytes());
        }
    }
}
