//! The owner: the fleet's file as it is wanted now, and the Secrets. What is edited is the file, which is then applied.

use crate::api::{Kind, Writer};
use crate::case::Case;
use crate::machine::{desired, host_key};
use crate::state::{FLEET, NAMESPACE, State};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use binder_crds::fleet::{Budget, Member, Remedies};
use binder_crds::references::{Access, FleetPower, GceInstance, GceProject, MemberPower, SecretKeyRef, SecretRef};
use binder_crds::{BinderFleetSpec, Mode};
use binder_operator::power::gce::SECRET_KEY;
use serde_json::json;

/// Who writes the owner's objects.
const MANAGER: &str = "kubectl";

/// What the owner wants.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The fleet, with every member that there ever was.
    spec: BinderFleetSpec,
    /// Which members are listed.
    listed: Vec<bool>,
    /// Whether there is a fleet at all.
    there: bool,
}

/// A private key of nobody's: a seed of sevens, as PKCS#8 (RFC 8410).
fn login_key() -> String {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend([7; 32]);
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(der))
}

fn mode(number: u8) -> Mode {
    match number % 3 {
        0 => Mode::Observe,
        1 => Mode::Approve,
        _ => Mode::Enforce,
    }
}

impl Owner {
    /// The owner of a case's fleet.
    pub fn of(case: &Case) -> Self {
        let secret = |name: &str| SecretRef { name: binder_crds::text::ObjectName(name.to_owned()) };
        let members = case.roles.iter().enumerate().map(|(number, role)| Member {
            name: format!("host-{number}").as_str().into(),
            address: format!("10.0.0.{}", number + 1).as_str().into(),
            host_keys: vec![host_key(number).as_str().into()],
            power: Some(MemberPower {
                gce: Some(GceInstance { instance: format!("instance-{number}").as_str().into(), zone: "z".into() }),
                may_start: None,
            }),
            desired: desired(*role),
            mode: case.modes.get(number).map(|wanted| mode(*wanted)),
            ..Member::default()
        });
        let spec = BinderFleetSpec {
            mode: mode(case.mode),
            budget: Budget::default(),
            remedies: Remedies {
                retry_period: "10s".into(),
                attempts: case.attempts,
                min_healthy_period: "2m".into(),
                unreachable_timeout: format!("{}s", case.unreachable_timeout).as_str().into(),
                per_day: case.per_day,
            },
            access: Access {
                user: binder_crds::text::UserName("andrew".to_owned()),
                key_secret_ref: secret("login"),
                may_authorize_key: case.seed.is_multiple_of(2),
                may_write_api_key: false,
            },
            api_key_secret_ref: Some(SecretKeyRef { name: secret("api-key").name, key: "api-key".to_owned() }),
            power: Some(FleetPower {
                gce: Some(GceProject { project: "p".into(), credentials_secret_ref: secret("gce") }),
                may_start: case.may_start,
            }),
            hosts: members.collect(),
            ..BinderFleetSpec::default()
        };
        Self { listed: vec![true; spec.hosts.len()], spec, there: true }
    }

    /// The Secrets, once, and the fleet.
    pub fn begins(&self, state: &mut State) {
        let secrets = [
            (
                "login",
                "kubernetes.io/ssh-auth",
                json!({"ssh-privatekey": BASE64_STANDARD.encode(login_key())}),
                json!({}),
            ),
            (
                "api-key",
                "Opaque",
                json!({"api-key": BASE64_STANDARD.encode("k3y")}),
                json!({"fleet.binder-project.org/purpose": "api-key"}),
            ),
            ("gce", "Opaque", json!({SECRET_KEY: BASE64_STANDARD.encode("{}")}), json!({})),
        ];
        for (name, of, data, labels) in secrets {
            let secret = json!({"metadata": {"name": name, "labels": labels}, "type": of, "data": data});
            let made = state.store.create(Kind::Secret, NAMESPACE, secret, MANAGER);
            debug_assert!(made.is_ok(), "{made:?}");
        }
        self.applies(state);
    }

    /// The file is applied, as it is now.
    pub fn applies(&self, state: &mut State) {
        let place = (Kind::Fleet, NAMESPACE.to_owned(), FLEET.to_owned());
        if !self.there {
            let _ = state.store.delete(&place, None);
            return;
        }
        let mut spec = self.spec.clone();
        let mut listed = self.listed.iter();
        spec.hosts.retain(|_| listed.next().copied().unwrap_or_default());
        let patch = json!({"metadata": {"name": FLEET}, "spec": spec});
        let written = state.store.apply(&place, &patch, Writer { manager: MANAGER, status: false });
        debug_assert!(written.is_ok(), "{written:?}");
    }

    /// The fleet is deleted, or wanted again.
    pub fn wants_fleet(&mut self, there: bool) {
        self.there = there;
    }

    /// The fleet's mode.
    pub fn fleet_mode(&mut self, number: u8) {
        self.spec.mode = mode(number);
    }

    /// Whether nothing is looked at.
    pub fn fleet_suspended(&mut self, suspended: bool) {
        self.spec.suspend = suspended;
    }

    /// Changes one member.
    pub fn member(&mut self, number: usize, change: impl FnOnce(&mut Member)) {
        if let Some(member) = self.spec.hosts.get_mut(number) {
            change(member);
        }
    }

    /// One member's mode.
    pub fn member_mode(&mut self, number: usize, wanted: u8) {
        self.member(number, |member| member.mode = Some(mode(wanted)));
    }

    /// Whether a member is listed. One stays always.
    pub fn member_listed(&mut self, number: usize, listed: bool) {
        if let Some(known) = self.listed.get_mut(number).filter(|_| number > 0) {
            *known = listed;
        }
    }
}
