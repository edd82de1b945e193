//! The operator's side of a host in memory: it is observed and decided on again and again, and time passes as data.

use binder_core::facets::Step;
use binder_core::plan::evidence::Demanded;
use binder_core::plan::memory::{Attempt, FleetView, History, RetryPolicy};
use binder_core::plan::{Decision, FailureKind, Finish, Host, LookFailure, Looked, Next, Run, WATCH, decide};
use binder_core::seen::history::EarlierLooks;
use binder_core::status;
use binder_crds::{BinderHostSpec, BinderHostStatus, Mode, conditions};
use binder_world::{CLIMB, World, web};
use jiff::Timestamp;
use std::time::Duration;

/// The public half of the login key.
pub(crate) const PUBLIC_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGI";

/// The operator's side: what it remembers and wrote, with the API's whole seconds.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) spec: BinderHostSpec,
    pub(crate) mode: Mode,
    pub(crate) fleet: FleetView,
    pub(crate) memory: History,
    pub(crate) status: BinderHostStatus,
    pub(crate) writes: usize,
    pub(crate) ran: Vec<String>,
    pub(crate) history: EarlierLooks,
    pub(crate) demanded: Demanded,
}

/// What was decided, with the status that is made of it.
pub(crate) struct Decided {
    pub(crate) status: BinderHostStatus,
    pub(crate) finish: Vec<Finish>,
    pub(crate) next: Next,
    pub(crate) look_again: Duration,
    pub(crate) demanded: Demanded,
}

impl Operator {
    pub(crate) fn new(mode: Mode) -> Self {
        let patience = RetryPolicy {
            retry_period: Duration::from_secs(5),
            attempts: 3,
            min_healthy_period: Duration::from_secs(60),
            unreachable_timeout: Duration::from_secs(60),
            // Tests restart the same machine for several reasons.
            per_day: 10,
        };
        let spec = BinderHostSpec {
            address: "192.0.2.1".into(),
            port: 22,
            host_keys: Vec::new(),
            domain: None,
            access: None,
            api_key_secret_ref: None,
            power: None,
            mode: None,
            suspend: false,
            interval: None,
            desired: web(),
        };
        Self {
            spec,
            mode,
            fleet: FleetView { fleet: Some("binder".to_owned()), patience, ..FleetView::default() },
            memory: History::default(),
            status: BinderHostStatus::default(),
            writes: 0,
            ran: Vec::new(),
            history: EarlierLooks::default(),
            demanded: Demanded::default(),
        }
    }

    pub(crate) fn decide(&self, looked: &Looked, now: Timestamp) -> Decided {
        let host = Host {
            name: "web",
            uid: "uid-1",
            generation: 1,
            spec: &self.spec,
            mode: self.mode,
            suspended: None,
            previous: &self.status,
            demanded: &self.demanded,
        };
        let decision = decide(&host, looked, &self.memory, &self.fleet, now);
        let status = status::of(&host, looked, &decision, &self.fleet, now);
        let Decision { finish, next, look_again, demanded, .. } = decision;
        Decided { status, finish, next, look_again, demanded }
    }

    /// One pass, as the controller makes it; gives how long it would wait.
    pub(crate) fn pass(&mut self, world: &mut World) -> Duration {
        self.pass_with(world, |world, step| world.apply(step))
    }

    pub(crate) fn pass_with(&mut self, world: &mut World, act: impl FnOnce(&mut World, &Step)) -> Duration {
        let looked = if world.refuses {
            Looked::Failed(LookFailure {
                reason: "LoginRefused",
                message: "192.0.2.1:22 refuses the login".to_owned(),
                kind: FailureKind::Refused { public_key: PUBLIC_KEY.to_owned() },
                not_before: None,
            })
        } else if world.silent {
            Looked::Failed(LookFailure {
                reason: "Unreachable",
                message: "192.0.2.1:22 cannot be reached".to_owned(),
                kind: FailureKind::Silent,
                not_before: None,
            })
        } else {
            let mut seen = world.observe();
            self.history.take_in(&mut seen);
            // What a world says of restarts, it says without counts.
            seen.climbing.extend(world.climbing.map(|name| (name.to_owned(), CLIMB)));
            Looked::Seen(Box::new(seen))
        };
        let decision = self.decide(&looked, world.now);
        self.demanded = decision.demanded.clone();
        for finish in &decision.finish {
            let past = self.memory.actions.iter_mut().find(|past| past.name == finish.action).unwrap();
            past.end(finish, world.now);
        }
        // As the API gives it back.
        let written = serde_json::from_value(serde_json::to_value(&decision.status).unwrap()).unwrap();
        if written != self.status {
            self.writes += 1;
            self.status = written;
        }
        if let Next::Run(run) = decision.next {
            self.record(&run, world.now);
            act(world, &run.step);
            return WATCH;
        }
        decision.look_again
    }

    pub(crate) fn record(&mut self, run: &Run, now: Timestamp) {
        let name = run.permit.action().to_owned();
        assert!(self.memory.actions.iter().all(|past| past.name != name), "{name} is recorded twice");
        assert_eq!(self.memory.open().count(), 0, "two steps at once");
        // Only a build is asked for elsewhere.
        let on = match run.step.kind() {
            "RebuildBuild" => self.fleet.build_server.as_ref().map(|build| build.uid.as_str()),
            _ => Some("uid-1"),
        };
        assert_eq!((run.permit.host(), Some(run.permit.done_on())), ("uid-1", on));
        let second = Timestamp::from_second(now.as_second()).unwrap();
        self.ran.push(run.step.kind().to_owned());
        self.memory.actions.push(Attempt {
            name,
            uid: String::new(),
            step: Some(run.step.clone()),
            kind: run.step.kind().to_owned(),
            subject: run.drift.subject.to_string(),
            words: run.step.words(),
            attempt: run.attempt,
            created: second,
            deadline: run.deadline,
            sent_at: Some(now),
            said: String::new(),
            outcome: None,
            finished_at: None,
            message: String::new(),
        });
    }

    pub(crate) fn run(&mut self, world: &mut World, passes: usize) {
        for _ in 0..passes {
            let wait = self.pass(world);
            world.pass(wait.as_secs().max(1));
        }
    }

    pub(crate) fn condition(&self, kind: &str) -> (&str, &str) {
        let found = self.status.conditions.iter().find(|condition| condition.type_ == kind);
        found.map_or(("", ""), |condition| (&condition.status, &condition.reason))
    }

    pub(crate) fn healthy(&self) -> bool {
        self.condition(conditions::HEALTHY).0 == "True"
    }
}
