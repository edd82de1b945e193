//! What other hosts say of one that does not answer, and what that is worth.
//!
//! Pure. Testimony comes as data: who asked, over what, what was heard, whether that witness was ever greeted there before, and how
//! its own connection was before and after the question. Not being able to reach something is not its death: only silence where
//! there was a greeting before is.

use binder_crds::host::ProvenAt;
use std::collections::BTreeSet;

/// One other host, and what it heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// The host that looked.
    pub host: String,
    /// Its failure domain.
    pub domain: Option<String>,
    /// Its own connection, before the question.
    pub before: Carrier,
    /// Its own connection, after the question.
    pub after: Carrier,
    /// Whether the silent host's sshd has greeted this very witness before, at the address and port that are described now.
    pub greeted: bool,
    /// What it heard.
    pub heard: Vec<Testimony>,
}

/// How a witness's own connection was, as a round trip over it shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// It answered.
    Alive,
    /// It did not, or nobody tried: whatever came over it may be its own silence.
    #[default]
    Unproven,
}

/// One question to one port, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// What was spoken.
    pub over: Over,
    /// The port.
    pub port: u16,
    /// What was heard.
    pub heard: Heard,
}

/// What a question is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// An sshd greets by itself.
    Ssh,
    /// A database answers a `hello`.
    MongoDb,
    /// A web server answers anything.
    Http,
    /// Nobody knows what is spoken there: a connection, and no more.
    Tcp,
}

/// What a question was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something was said.
    Spoke,
    /// The connection was accepted, and nothing was said in time: a kernel does that for a process that is stopped.
    AcceptedSilent,
    /// The connection was accepted and then ended by the other side.
    Ended,
    /// The connection was refused: the machine's kernel answers.
    Refused,
    /// Nothing came back at all.
    TimedOut,
    /// There is no way to it from the witness.
    NoRoute,
    /// The witness does not know its name.
    NameNotFound,
    /// Nobody knows, and why.
    Unknown(String),
}

/// What a witness's testimony comes to; in words that do not change from look to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// It has fallen silent.
    Dead(String),
    /// Something of it answers.
    Alive(String),
    /// The witness cannot tell.
    Unsure(String),
}

/// What one witness was told by one endpoint, and when, by any clock that does not go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting<T> {
    /// When it was greeted last.
    pub greeted: Option<T>,
    /// When it was last not greeted.
    pub missed: Option<T>,
}

impl<T> Default for Greeting<T> {
    fn default() -> Self {
        Self { greeted: None, missed: None }
    }
}

/// Who has been greeted by an endpoint: those that were before, as the status tells, and those that were since; without those
/// that were turned away while we could still look at the host ourselves, which no outage explains.
pub fn greets<T: Ord + Copy>(
    before: Option<&ProvenAt>,
    records: &[(String, Greeting<T>)],
    seen_at: Option<T>,
) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = before.map(|proven| proven.greets.iter().cloned().collect()).unwrap_or_default();
    for (host, record) in records {
        if record.greeted.is_some() {
            names.insert(host.clone());
        }
        let missed = record.missed.filter(|missed| record.greeted.is_none_or(|greeted| greeted < *missed));
        if missed.is_some_and(|missed| seen_at.is_some_and(|seen| seen > missed)) {
            names.remove(host);
        }
    }
    names
}

/// The order in which witnesses are asked: who was greeted there, who is in the same failure domain, and then always the same
/// few, other ones for each host.
pub fn preference(witness: &str, of: &str, greeted: bool, same_domain: bool) -> (bool, bool, u64) {
    // FNV-1a: the same everywhere and for ever.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in of.bytes().chain([0]).chain(witness.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // Its last bytes hardly reach the upper bits, which decide: MurmurHash3's finalizer.
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    (!greeted, !same_domain, hash)
}

impl Testimony {
    /// Whether it proves that the machine lives. Silence of any kind does not; nor does a connection that a kernel accepts.
    fn is_life(&self) -> bool {
        match self.heard {
            Heard::Spoke | Heard::Ended | Heard::Refused => true,
            Heard::AcceptedSilent | Heard::TimedOut | Heard::NoRoute | Heard::NameNotFound | Heard::Unknown(_) => false,
        }
    }

    fn words(&self) -> String {
        let what = match self.over {
            Over::Ssh => "its SSH port".to_owned(),
            Over::MongoDb | Over::Http | Over::Tcp => format!("{}", self.port),
        };
        match &self.heard {
            Heard::Spoke => format!("{what} answers"),
            Heard::AcceptedSilent => format!("{what} takes connections and says nothing"),
            Heard::Ended => format!("{what} takes connections and ends them"),
            Heard::Refused => format!("{what} is closed (connection refused)"),
            Heard::TimedOut => format!("{what} is silent"),
            Heard::NoRoute => format!("no route to {what}"),
            Heard::NameNotFound => format!("its name does not resolve for {what}"),
            Heard::Unknown(why) => format!("{what}: {why}"),
        }
    }
}

/// What one witness's testimony comes to.
pub fn judge(witness: &Witness) -> Says {
    let said: Vec<String> = witness.heard.iter().map(Testimony::words).collect();
    let said = said.join(", ");
    if witness.heard.iter().any(Testimony::is_life) {
        return Says::Alive(said);
    }
    let unsure = |why: &str| Says::Unsure(if said.is_empty() { why.to_owned() } else { format!("{said}, but {why}") });
    // Whoever hangs itself hears nothing of anybody.
    if witness.before != Carrier::Alive || witness.after != Carrier::Alive {
        return unsure("its own connection does not answer");
    }
    let mut questions = witness.heard.iter();
    let ssh = witness.heard.iter().find(|testimony| testimony.over == Over::Ssh).map(|testimony| &testimony.heard);
    match ssh {
        None => unsure("it was not asked for its SSH"),
        Some(Heard::TimedOut) if !questions.all(|testimony| testimony.heard == Heard::TimedOut) => {
            unsure("that is not silence")
        }
        Some(Heard::TimedOut) if !witness.greeted => unsure("it has never been greeted there"),
        Some(Heard::TimedOut) => Says::Dead(said),
        Some(_) => unsure("that is not silence"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
pub(super) mod tests {
    use super::*;

    fn testimony(over: Over, port: u16, heard: Heard) -> Testimony {
        Testimony { over, port, heard }
    }

    pub(in crate::plan) fn witness(ssh: Heard) -> Witness {
        Witness {
            host: "web".to_owned(),
            domain: None,
            before: Carrier::Alive,
            after: Carrier::Alive,
            greeted: true,
            heard: vec![testimony(Over::Ssh, 22, ssh), testimony(Over::MongoDb, 9050, Heard::TimedOut)],
        }
    }

    fn all_heard() -> Vec<Heard> {
        vec![
            Heard::Spoke,
            Heard::AcceptedSilent,
            Heard::Ended,
            Heard::Refused,
            Heard::TimedOut,
            Heard::NoRoute,
            Heard::NameNotFound,
            Heard::Unknown("it forbids tunnels".to_owned()),
        ]
    }

    /// Every answer over SSH, every answer of another port, greeted or not, carrier alive or not: dead in one cell only.
    #[test]
    fn only_silence_towards_one_that_was_greeted_and_lives_is_death() {
        let (mut cells, mut dead) = (0, 0);
        for ssh in all_heard() {
            for other in all_heard() {
                for over in [Over::MongoDb, Over::Http, Over::Tcp] {
                    for greeted in [true, false] {
                        for (before, after) in [
                            (Carrier::Alive, Carrier::Alive),
                            (Carrier::Alive, Carrier::Unproven),
                            (Carrier::Unproven, Carrier::Alive),
                            (Carrier::Unproven, Carrier::Unproven),
                        ] {
                            let heard =
                                vec![testimony(Over::Ssh, 22, ssh.clone()), testimony(over, 9050, other.clone())];
                            let carried = before == Carrier::Alive && after == Carrier::Alive;
                            let witness = Witness { before, after, greeted, heard, ..witness(ssh.clone()) };
                            let life = |heard: &Heard| matches!(heard, Heard::Spoke | Heard::Ended | Heard::Refused);
                            let expected = if life(&ssh) || life(&other) {
                                "alive"
                            } else if carried && greeted && ssh == Heard::TimedOut && other == Heard::TimedOut {
                                dead += 1;
                                "dead"
                            } else {
                                "unsure"
                            };
                            let said = match judge(&witness) {
                                Says::Alive(_) => "alive",
                                Says::Dead(_) => "dead",
                                Says::Unsure(_) => "unsure",
                            };
                            assert_eq!(said, expected, "{witness:?}");
                            cells += 1;
                        }
                    }
                }
            }
        }
        assert_eq!((cells, dead), (8 * 8 * 3 * 2 * 4, 3));
    }

    #[test]
    fn a_refused_ssh_port_is_a_living_machine() {
        let says = judge(&witness(Heard::Refused));
        let Says::Alive(words) = says else { panic!("{says:?}") };
        assert_eq!(words, "its SSH port is closed (connection refused), 9050 is silent");
    }

    #[test]
    fn a_name_that_does_not_resolve_and_a_missing_route_are_unsure() {
        for heard in [Heard::NameNotFound, Heard::NoRoute, Heard::Unknown("x".to_owned())] {
            assert!(matches!(judge(&witness(heard)), Says::Unsure(_)));
        }
    }

    #[test]
    fn who_hangs_itself_and_who_was_never_greeted_say_nothing_of_others() {
        let hung = Witness { after: Carrier::Unproven, ..witness(Heard::TimedOut) };
        let Says::Unsure(words) = judge(&hung) else { panic!() };
        assert!(words.ends_with("but its own connection does not answer"), "{words}");
        let stranger = Witness { greeted: false, ..witness(Heard::TimedOut) };
        let Says::Unsure(words) = judge(&stranger) else { panic!() };
        assert!(words.ends_with("but it has never been greeted there"), "{words}");
        assert!(matches!(judge(&Witness::default()), Says::Unsure(_)));
    }

    #[test]
    fn who_was_greeted_is_remembered_until_it_is_turned_away_without_an_outage() {
        let before = ProvenAt { greets: vec!["web".to_owned()], ..ProvenAt::default() };
        let record = |greeted, missed| vec![("web".to_owned(), Greeting { greeted, missed })];
        let has = |before, records: &[(String, Greeting<u32>)], seen| greets(before, records, seen).contains("web");
        assert!(has(None, &record(Some(1), None), None));
        assert!(has(Some(&before), &[], None), "a restart of the operator");
        assert!(has(Some(&before), &record(Some(1), Some(5)), Some(4)), "it may have fallen silent then");
        assert!(!has(Some(&before), &record(Some(1), Some(5)), Some(6)), "we saw it, and the witness did not");
        assert!(has(Some(&before), &record(Some(7), Some(5)), Some(6)));
        assert!(!has(None, &record(None, Some(5)), None));
    }

    #[test]
    fn witnesses_that_were_greeted_and_are_near_are_asked_first_and_hosts_share_the_work() {
        let order = |of: &str| {
            let mut all = vec![
                ("far", preference("far", of, true, false)),
                ("near", preference("near", of, true, true)),
                ("stranger", preference("stranger", of, false, true)),
            ];
            all.sort_by_key(|(_, preference)| *preference);
            all.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(order("services"), ["near", "far", "stranger"]);
        let first = |of: String| {
            (0..100).map(|n| format!("host-{n}")).min_by_key(|name| preference(name, &of, true, true)).unwrap()
        };
        let chosen: BTreeSet<String> = (0..100).map(|n| first(format!("host-{n}"))).collect();
        assert!(chosen.len() > 40, "{}", chosen.len());
    }
}
