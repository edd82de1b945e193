//! What a Kubernetes API says of itself: whether it answers, whom, and what that comes to. What it lists is read in [`lists`].

mod lists;

pub use lists::{Namespaces, NodeInstance, Nodes, namespace_names, namespaces, nodes};

use super::{Reason, Unknown};
use std::collections::BTreeSet;
use std::time::Duration;

/// From then on an API is slow whatever the reason: five times [`OBJECTIVE`].
pub const SLOW: Duration = Duration::from_secs(5);

/// What Kubernetes sets itself as an objective for a call about one object (its SLO "API call latency"). An API that misses it
/// is slow where something else says why.
pub const OBJECTIVE: Duration = Duration::from_secs(1);

/// What was seen of an API: what it answers on the machine itself, and what it answers whoever uses the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The port that was asked on the machine's own loopback address.
    pub own_port: u16,
    /// How it answers `/healthz` there.
    pub own: Answers,
    /// How it answers through a kubectl proxy, or why nobody could ask through one.
    pub proxied: Result<Proxied, String>,
    /// Its nodes, or why they are not known.
    pub nodes: Result<Nodes, String>,
    /// The namespaces of Binder's apps, if they could be listed.
    pub namespaces: Option<Namespaces>,
}

/// What came through a kubectl proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// The host whose proxy it is.
    pub via: String,
    /// How `/healthz` is answered through it.
    pub answer: Answers,
    /// Whose answer that is.
    pub cluster: Identified,
}

/// How `/healthz` is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answers {
    /// It says that it is well, after so long.
    Well(Duration),
    /// It answers with an HTTP status that is no "well".
    Status(u16),
    /// It does not answer in time, though whoever carries the question lives.
    Silent,
    /// Nobody listens there.
    Closed,
    /// Nobody knows: why, in words that do not change from look to look.
    Unclear(String),
}

/// Whether a proxy's cluster is the one that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identified {
    /// It told so in this look.
    Told,
    /// It told so in an earlier look, and tells nothing now.
    Before,
    /// It tells of another one.
    Another(String),
    /// It never told since the operator was started.
    Never,
    /// Nobody says which one is meant.
    Unnamed,
}

/// Compares what is meant with what a proxy tells now, and told before.
pub fn identify(meant: Option<&str>, now: Option<&str>, before: Option<&str>) -> Identified {
    let Some(meant) = meant else { return Identified::Unnamed };
    match (now, before) {
        (Some(now), _) if now == meant => Identified::Told,
        (Some(other), _) => Identified::Another(other.to_owned()),
        (None, Some(before)) if before == meant => Identified::Before,
        (None, Some(other)) => Identified::Another(other.to_owned()),
        (None, None) => Identified::Never,
    }
}

/// What all that was heard comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It says that it is well, after so long, asked as whoever uses the cluster asks.
    Well(Duration),
    /// The API of the cluster that is meant answers nobody, or not well; in words.
    NotAnswering(String),
    /// Nobody can tell.
    Unknown(Unknown),
}

impl Answers {
    /// Whether it is the API's own fault that it does not say that it is well: it is silent, or has an error of its own. 502 is
    /// the word of whoever stands before it and does not reach it; anything below 500 is about the one who asks.
    fn is_fault(&self) -> bool {
        match self {
            Self::Silent => true,
            Self::Status(status) => *status >= 500 && *status != 502,
            Self::Well(_) | Self::Closed | Self::Unclear(_) => false,
        }
    }

    /// Whether it misses its objective, whatever comes after.
    fn is_late(&self) -> bool {
        match self {
            Self::Well(after) => *after > OBJECTIVE,
            Self::Silent | Self::Status(_) | Self::Closed | Self::Unclear(_) => self.is_fault(),
        }
    }
}

impl Api {
    /// Whether the cluster behind the proxy is surely the one that is meant.
    fn is_named(&self) -> bool {
        let identified = self.proxied.as_ref().map(|proxied| &proxied.cluster);
        matches!(identified, Ok(Identified::Told | Identified::Before))
    }

    /// Whether its nodes were told by the cluster that is meant, in this look.
    pub fn nodes_are_its_own(&self) -> bool {
        self.proxied.as_ref().is_ok_and(|proxied| proxied.cluster == Identified::Told)
    }

    /// Whether the API of the cluster that is meant misses its objective whoever asks: so it is not the way to it.
    pub fn is_late_everywhere(&self) -> bool {
        self.own.is_late() && self.is_named() && self.proxied.as_ref().is_ok_and(|proxied| proxied.answer.is_late())
    }

    /// How it answers on the machine itself, in words.
    fn own_words(&self) -> String {
        let port = self.own_port;
        match &self.own {
            Answers::Well(_) => "on its own loopback address it says that it is well".to_owned(),
            Answers::Status(status) => format!("on its own loopback address it answers with HTTP {status}"),
            Answers::Silent => "on its own loopback address it does not answer".to_owned(),
            Answers::Closed => {
                format!("nothing listens on 127.0.0.1:{port} of the machine itself (kubernetesApi.port)")
            }
            Answers::Unclear(why) => format!("127.0.0.1:{port} of the machine itself: {why}"),
        }
    }

    /// What all that was heard comes to.
    pub fn verdict(&self) -> Verdict {
        let blind = |reason, message| Verdict::Unknown(Unknown { reason, message });
        let own = self.own_words();
        let Proxied { via, answer, cluster } = match &self.proxied {
            Ok(proxied) => proxied,
            Err(why) => return blind(Reason::NotAnswered, format!("{why}; {own}")),
        };
        if let Identified::Another(found) = cluster {
            let message = format!(
                "the kubectl proxy on {via} leads to another cluster ({found}), which tells nothing of this one"
            );
            return blind(Reason::WrongCluster, message);
        }
        match answer {
            Answers::Well(after) => Verdict::Well(*after),
            Answers::Unclear(why) => blind(Reason::NotAnswered, format!("{why}; {own}")),
            Answers::Closed => blind(Reason::NotAnswered, format!("the kubectl proxy on {via} does not answer; {own}")),
            Answers::Status(status) if !answer.is_fault() => {
                let why = match status {
                    401 => "its credentials are not accepted (has its kubeconfig expired?)",
                    403 => "its login may not ask for /healthz",
                    404 => "the server there does not know /healthz",
                    429 => "too much is asked of it",
                    502 => "the proxy does not reach the API",
                    _ => "that is not an answer of a health check",
                };
                blind(
                    Reason::AskerRefused,
                    format!("/healthz through {via} is answered with HTTP {status}: {why}; {own}"),
                )
            }
            Answers::Silent | Answers::Status(_) => {
                let theirs = match answer {
                    Answers::Status(status) => format!("through {via} /healthz is answered with HTTP {status}"),
                    _ => format!("through {via} nothing is answered"),
                };
                if !self.own.is_fault() {
                    return blind(Reason::NotAnswered, format!("{theirs}, but {own}"));
                }
                match cluster {
                    Identified::Told | Identified::Before => Verdict::NotAnswering(format!("{theirs}, and {own}")),
                    Identified::Never | Identified::Another(_) => blind(
                        Reason::NotAnswered,
                        format!(
                            "{theirs}, and {own}; but which cluster is behind that proxy was not told since the operator was started"
                        ),
                    ),
                    Identified::Unnamed => blind(
                        Reason::NotAnswered,
                        format!(
                            "{theirs}, and {own}; but which cluster is meant is not described: set kubernetesApi.clusterId"
                        ),
                    ),
                }
            }
        }
    }
}

/// What is wrong with an API, if that lasts.
pub(super) fn marks(api: &Api) -> BTreeSet<String> {
    let mut marks = BTreeSet::new();
    // What does not answer misses every objective as well: an API that crawls is now late, now silent.
    if api.is_late_everywhere() {
        marks.insert(LATE_MARK.to_owned());
    }
    match api.verdict() {
        Verdict::NotAnswering(_) => marks.extend([SILENT_MARK, SLOW_MARK].map(str::to_owned)),
        Verdict::Well(after) if after > SLOW => {
            marks.insert(SLOW_MARK.to_owned());
        }
        Verdict::Well(_) | Verdict::Unknown(_) => {}
    }
    if let Ok(nodes) = &api.nodes {
        marks.insert(nodes_mark(nodes.ready));
    }
    marks
}

/// So many nodes are Ready.
pub fn nodes_mark(ready: u32) -> String {
    format!("{ready} nodes are Ready")
}

/// The API misses its objective.
pub const LATE_MARK: &str = "the Kubernetes API is late";
/// The API is slow.
pub const SLOW_MARK: &str = "the Kubernetes API is slow";
/// The API does not answer, or not well.
pub const SILENT_MARK: &str = "the Kubernetes API does not answer";

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;

    fn api(own: Answers, answer: Answers, cluster: Identified) -> Api {
        let proxied = Ok(Proxied { via: "web".to_owned(), answer, cluster });
        Api { own_port: 6443, own, proxied, nodes: Ok(Nodes::default()), namespaces: None }
    }

    fn all_answers() -> Vec<Answers> {
        let mut all: Vec<Answers> = [200, 301, 400, 401, 403, 404, 429, 500, 502, 503, 504].map(Answers::Status).into();
        all.push(Answers::Well(Duration::from_millis(5)));
        all.extend([Answers::Silent, Answers::Closed, Answers::Unclear("it hangs itself".to_owned())]);
        all
    }

    /// Every answer on the machine itself, every answer through the proxy, every cluster behind it.
    #[test]
    fn an_api_is_at_fault_only_when_both_ways_say_so_of_the_cluster_that_is_meant() {
        let fault = |answer: &Answers| match answer {
            Answers::Silent => true,
            Answers::Status(status) => [500, 503, 504].contains(status),
            _ => false,
        };
        let mut faults = 0;
        for own in all_answers() {
            for answer in all_answers() {
                for cluster in [
                    Identified::Told,
                    Identified::Before,
                    Identified::Another("other".to_owned()),
                    Identified::Never,
                    Identified::Unnamed,
                ] {
                    let named = matches!(cluster, Identified::Told | Identified::Before);
                    let another = matches!(cluster, Identified::Another(_));
                    let expected = if !another && matches!(answer, Answers::Well(_)) {
                        "well"
                    } else if named && fault(&own) && fault(&answer) {
                        faults += 1;
                        "fault"
                    } else {
                        "blind"
                    };
                    let api = api(own.clone(), answer.clone(), cluster);
                    let said = match api.verdict() {
                        Verdict::Well(_) => "well",
                        Verdict::NotAnswering(_) => "fault",
                        Verdict::Unknown(_) => "blind",
                    };
                    assert_eq!(said, expected, "{api:?}");
                    assert_eq!(marks(&api).contains(SILENT_MARK), expected == "fault", "{api:?}");
                    assert_eq!(api.is_late_everywhere(), expected == "fault", "{api:?}");
                }
            }
        }
        assert_eq!(faults, 4 * 4 * 2);
    }

    #[test]
    fn an_answer_about_the_asker_says_so() {
        for (status, says) in
            [(401, "kubeconfig"), (403, "may not ask"), (404, "/healthz"), (429, "too much"), (502, "reach")]
        {
            let verdict = api(Answers::Well(Duration::ZERO), Answers::Status(status), Identified::Told).verdict();
            let Verdict::Unknown(Unknown { reason: Reason::AskerRefused, message }) = verdict else {
                panic!("{verdict:?}")
            };
            assert!(message.contains(says) && message.contains("it says that it is well"), "{message}");
        }
        let nobody = Api {
            proxied: Err("nobody can ask".to_owned()),
            ..api(Answers::Silent, Answers::Silent, Identified::Told)
        };
        let Verdict::Unknown(blind) = nobody.verdict() else { panic!() };
        assert_eq!(blind.message, "nobody can ask; on its own loopback address it does not answer");
    }

    #[test]
    fn which_cluster_answers_is_what_it_says_now_or_said_last() {
        assert_eq!(identify(Some("a"), Some("a"), Some("b")), Identified::Told);
        assert_eq!(identify(Some("a"), Some("b"), Some("a")), Identified::Another("b".to_owned()));
        assert_eq!(identify(Some("a"), None, Some("a")), Identified::Before);
        assert_eq!(identify(Some("a"), None, Some("b")), Identified::Another("b".to_owned()));
        assert_eq!(identify(Some("a"), None, None), Identified::Never);
        assert_eq!(identify(None, Some("a"), Some("a")), Identified::Unnamed);
    }
}
