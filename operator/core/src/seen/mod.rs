//! What a look saw, as facts: the sections of the probe (constant scripts) and the parsers of their output.
//!
//! Everything here came from a host and is hostile: bounded, parsed, cleaned. What could not be seen is *unknown*, never
//! *absent*. Must not know what is described, what differs or what would be done.

pub mod backups;
pub mod clock;
pub mod crashes;
pub mod database;
pub mod disks;
pub mod docker;
pub mod history;
pub mod keys;
pub mod kubernetes;
pub mod lasting;
pub mod machine;
pub mod modules;
pub mod nat;
pub mod pm2;
pub mod proxy;
pub mod reach;
pub mod restarts;
pub mod routes;
pub(crate) mod script;
pub mod servers;
pub mod settings;

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// A fact, or why it is not known.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact<T> {
    /// It was seen.
    Seen(T),
    /// It could not be seen.
    Unknown(Unknown),
    /// Nobody asked.
    NotAsked,
}

impl<T> Fact<T> {
    /// The fact, if it was seen.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(fact) => Some(fact),
            Self::Unknown(_) | Self::NotAsked => None,
        }
    }

    /// The fact, or why it is missing.
    ///
    /// # Errors
    /// [`Unknown`] when it was not seen.
    pub fn get(&self) -> Result<&T, Unknown> {
        match self {
            Self::Seen(fact) => Ok(fact),
            Self::Unknown(blind) => Err(blind.clone()),
            Self::NotAsked => {
                Err(Unknown { reason: Reason::NotSeen, message: "this part of the host was not looked at".to_owned() })
            }
        }
    }
}

/// Why something could not be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The reason, for a condition.
    pub reason: Reason,
    /// The same in words, clean.
    pub message: String,
}

/// Reasons for not seeing one part of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its section of the probe ran out of time.
    ProbeTimedOut,
    /// It said more than is read.
    TooMuchOutput,
    /// It said something that is not what such a host says.
    Garbage,
    /// `sudo` wants a password.
    SudoNeedsPassword,
    /// `sudo` wants a terminal (`requiretty`).
    SudoNeedsTty,
    /// `sudo` does not allow this login that command.
    SudoNotAllowed,
    /// A program that it needs is not installed.
    NotInstalled,
    /// The look ended before it.
    NotSeen,
    /// The program ran and failed.
    ProbeFailed,
    /// A server that would tell does not answer.
    NotAnswered,
    /// The API key, with which it would be asked, is not known.
    KeyUnknown,
    /// What was seen does not tell whether it is as described.
    NotJudged,
    /// What answers speaks of the one who asks: no right, no credentials, too many questions.
    AskerRefused,
    /// What answers is another cluster than the one that is meant.
    WrongCluster,
}

impl Reason {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProbeTimedOut => "ProbeTimedOut",
            Self::TooMuchOutput => "TooMuchOutput",
            Self::Garbage => "Garbage",
            Self::SudoNeedsPassword => "SudoNeedsPassword",
            Self::SudoNeedsTty => "SudoNeedsTty",
            Self::SudoNotAllowed => "SudoNotAllowed",
            Self::NotInstalled => "NotInstalled",
            Self::NotSeen => "NotSeen",
            Self::ProbeFailed => "ProbeFailed",
            Self::NotAnswered => "NotAnswered",
            Self::KeyUnknown => "KeyUnknown",
            Self::NotJudged => "NotJudged",
            Self::AskerRefused => "AskerRefused",
            Self::WrongCluster => "WrongCluster",
        }
    }
}

/// One section of the probe: a constant script, its typed arguments, its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The section's name.
    pub name: &'static str,
    /// A constant POSIX shell script; arguments reach it as positional parameters, quoted by a library.
    pub script: &'static str,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its time limit, in whole seconds.
    pub seconds: u64,
    /// The most that it may say, in bytes.
    pub max_bytes: usize,
}

/// What a section said.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// All of it, with the exit code of the script.
    Said {
        /// Its output, as it came.
        bytes: Vec<u8>,
        /// Its exit code.
        exit: i32,
    },
    /// It was cut short, or never came.
    Not(Unknown),
}

/// The exit code by which our own scripts say that `sudo` refused (`sysexits.h`: `EX_NOPERM`).
pub const EXIT_SUDO: i32 = 77;
/// The exit code by which our own scripts say that a program is missing (the shell's own convention).
pub const EXIT_MISSING: i32 = 127;

/// Reads one section of a look: what was not asked stays so, what cannot be read is unknown with its reason.
pub fn known<T>(
    asked: &[Ask],
    answers: &BTreeMap<String, Answer>,
    name: &str,
    read: impl FnOnce(Option<&Answer>) -> Result<T, Unknown>,
) -> Fact<T> {
    if !asked.iter().any(|ask| ask.name == name) {
        return Fact::NotAsked;
    }
    match read(answers.get(name)) {
        Ok(fact) => Fact::Seen(fact),
        Err(blind) => Fact::Unknown(blind),
    }
}

/// Everything that one look saw of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When, by the operator's clock.
    pub at: Timestamp,
    /// Boot, clock, processes and listeners.
    pub machine: Fact<machine::Machine>,
    /// pm2's table.
    pub pm2: Fact<pm2::Table>,
    /// The NAT rules for incoming connections.
    pub nat: Fact<nat::Nat>,
    /// Use of the described file systems, by path.
    pub disks: Fact<BTreeMap<String, disks::Use>>,
    /// Docker.
    pub docker: Fact<docker::Docker>,
    /// Who serves the kubectl proxy's port.
    pub proxy: Fact<proxy::Proxy>,
    /// Which described ports of other machines can be reached.
    pub reaches: Fact<reach::Reaches>,
    /// What Binder's servers here say.
    pub servers: Fact<servers::Servers>,
    /// What the logs of Binder's servers tell of the API key; asked only while the Secret does not have it.
    pub log_keys: Fact<BTreeMap<String, keys::InLog>>,
    /// What was found of the API key in the whole fleet, while the Secret does not have it.
    pub key_search: Option<keys::KeySearch>,
    /// The Kubernetes API that the host serves.
    pub kubernetes: Fact<kubernetes::Api>,
    /// The routes of Binder's proxy.
    pub routes: Fact<routes::Routes>,
    /// Since when what is seen has been so; see [`history`].
    pub lasting: lasting::Lasting,
    /// Whether the clock was off at the look before; see [`clock`].
    pub clock_before: Option<clock::Off>,
    /// The last errors in pm2's logs, by the process's name.
    pub crashes: Fact<BTreeMap<String, crashes::Crash>>,
    /// Processes that pm2 restarts again and again, by name: worked out from earlier looks as well as from this one.
    pub climbing: BTreeMap<String, restarts::Climb>,
    /// What Binder's settings on the host say.
    pub settings: Fact<settings::Settings>,
    /// Which versions of npm modules are installed.
    pub modules: Fact<modules::Modules>,
    /// What Binder's database holds.
    pub database: Fact<database::Database>,
    /// Its backups.
    pub backups: Fact<backups::Backups>,
}

impl Observation {
    /// A look that asked for nothing.
    pub fn nothing(at: Timestamp) -> Self {
        Self {
            at,
            machine: Fact::NotAsked,
            pm2: Fact::NotAsked,
            nat: Fact::NotAsked,
            disks: Fact::NotAsked,
            docker: Fact::NotAsked,
            proxy: Fact::NotAsked,
            reaches: Fact::NotAsked,
            servers: Fact::NotAsked,
            log_keys: Fact::NotAsked,
            key_search: None,
            kubernetes: Fact::NotAsked,
            routes: Fact::NotAsked,
            lasting: lasting::Lasting::default(),
            clock_before: None,
            settings: Fact::NotAsked,
            modules: Fact::NotAsked,
            crashes: Fact::NotAsked,
            climbing: BTreeMap::new(),
            database: Fact::NotAsked,
            backups: Fact::NotAsked,
        }
    }

    /// Reads the answers of a look. What was not asked stays so; what cannot be read is unknown with its reason.
    pub fn read(at: Timestamp, asked: &[Ask], answers: &BTreeMap<String, Answer>, cluster: proxy::Cluster) -> Self {
        let machine = known(asked, answers, machine::NAME, machine::read);
        let proven = |answer: Option<&Answer>| {
            let table = pm2::read(answer)?;
            match machine.seen() {
                Some(machine) => pm2::proven(table, machine),
                None => Ok(table),
            }
        };
        Self {
            pm2: known(asked, answers, pm2::NAME, proven),
            nat: known(asked, answers, nat::NAME, nat::read),
            disks: known(asked, answers, disks::NAME, disks::read),
            docker: known(asked, answers, docker::NAME, docker::read),
            proxy: known(asked, answers, proxy::NAME, |answer| proxy::read(answer, cluster)),
            crashes: known(asked, answers, crashes::NAME, crashes::read),
            settings: known(asked, answers, settings::NAME, settings::read),
            modules: known(asked, answers, modules::NAME, modules::read),
            log_keys: known(asked, answers, keys::NAME, keys::read),
            machine,
            ..Self::nothing(at)
        }
    }

    /// What this look shows that matters only when it lasts; see [`lasting`].
    pub fn marks(&self) -> BTreeSet<String> {
        let mut marks = BTreeSet::new();
        if let (Some(machine), Some(table)) = (self.machine.seen(), self.pm2.seen()) {
            marks.extend(pm2::marks(machine, table));
        }
        if let (Some(machine), Some(docker)) = (self.machine.seen(), self.docker.seen()) {
            marks.extend(docker::marks(machine, docker));
        }
        marks.extend(self.reaches.seen().map(reach::marks).unwrap_or_default());
        marks.extend(self.servers.seen().map(servers::marks).unwrap_or_default());
        marks.extend(self.kubernetes.seen().map(kubernetes::marks).unwrap_or_default());
        marks.extend(self.routes.seen().map(routes::marks).unwrap_or_default());
        marks
    }

    /// The boot that was seen.
    pub fn boot_id(&self) -> Option<&str> {
        self.machine.seen().map(|machine| machine.boot_id.as_str())
    }
}
