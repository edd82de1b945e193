//! The operator's client for Compute Engine against the lab's stand-in, with machines that are imagined: what both agree on.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use binder_core::gate::demands::{Demands, Evidence};
use binder_core::gate::{self, Permit};
use binder_crds::Mode;
use binder_crds::references::GceHost;
use binder_lab::cgroup::Cgroup;
use binder_lab::cloud::accounts::{Account, OPERATOR_RIGHTS};
use binder_lab::cloud::metadata::{KEYS, Metadata};
use binder_lab::cloud::{self, Instance, Service};
use binder_lab::host::power::{Order, PowerButton};
use binder_lab::inventory::{Network, Role, with_role};
use binder_lab::layout::HostLayout;
use binder_operator::power::gce::{BadCredentials, Gce, GceInstance};
use binder_operator::power::{Fault, KeyAdded, Power, Retryability, SshKey, State};
use secrecy::SecretString;

/// A stand-in with one machine, whose button only writes down who presses it.
struct Place {
    service: Service,
    operator: Account,
    viewer: Account,
    button: PowerButton,
    pressed: Arc<Mutex<Vec<Order>>>,
    folder: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGI";

impl Place {
    async fn set(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("binder-lab-cloud-{}-{name}", std::process::id()));
        let home = folder.join("root/home/andrew/.ssh");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(folder.join("root/etc")).unwrap();
        std::fs::write(folder.join("root/etc/passwd"), "andrew:x:2016:2016::/home/andrew:/bin/bash\n").unwrap();
        std::fs::write(home.join("authorized_keys"), "ssh-rsa AAAA somebody@else\n").unwrap();
        let machine = with_role(Role::Services);
        let (button, pressed) = PowerButton::imagined(machine.name);
        let files = HostLayout::in_folder(&folder);
        let mut metadata = Metadata::default();
        metadata.set("startup-script", "#!/bin/sh".into());
        metadata.set(KEYS, "carol:ssh-rsa AAAA carol@example.org".into());
        metadata.write(&files.metadata()).unwrap();
        let group = Cgroup::of_lab(&format!("cloud-{name}")).unwrap().child("nobody");
        let operator = Account::make(&folder, "operator", OPERATOR_RIGHTS).await.unwrap();
        let viewer = Account::make(&folder, "viewer", &["compute.instances.get"]).await.unwrap();
        let instance = Instance { machine, button: button.clone(), files, group };
        let service = cloud::serve(Network(0), vec![instance], vec![operator.clone(), viewer.clone()]).await.unwrap();
        Self { service, operator, viewer, button, pressed, folder }
    }

    fn instance_of(&self, account: &Account, host: &GceHost) -> GceInstance {
        let json = SecretString::from(account.key_file(self.service.base()).to_string());
        Gce::new(self.service.base().parse().unwrap()).instance(host, &json).unwrap()
    }

    fn instance(&self) -> GceInstance {
        self.instance_of(&self.operator, &host())
    }

    fn pressed(&self) -> Vec<Order> {
        self.pressed.lock().unwrap().clone()
    }

    fn metadata(&self) -> PathBuf {
        HostLayout::in_folder(&self.folder).metadata()
    }

    /// The keys that let somebody in, once the machine's agent has placed them.
    async fn authorized(&self, wanted: impl Fn(&str) -> bool) -> String {
        let file = self.folder.join("root/home/andrew/.ssh/authorized_keys");
        for _ in 0..100 {
            let text = std::fs::read_to_string(&file).unwrap();
            if wanted(&text) {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{}", std::fs::read_to_string(&file).unwrap());
    }
}

fn host() -> GceHost {
    GceHost {
        project: "binder-testing".into(),
        zone: "us-central1-f".into(),
        instance: "binder-services".into(),
        ..GceHost::default()
    }
}

/// A permit as only the gate gives it.
fn permit(action: &str) -> Permit {
    gate::admit(&gate::Request {
        host: "uid",
        via: None,
        action,
        suspended: false,
        mode: Mode::Enforce,
        held: None,
        waits_for: None,
        taking_effect: None,
        attempts: 0,
        max_attempts: 1,
        retry_at: None,
        demands: Demands { looks: 1, lasting: false, warranted: false, booted: false, per_day: false },
        evidence: Evidence { looks: 1, ..Evidence::default() },
        witness: None,
        closed_until: None,
        over_budget: None,
        now: jiff::Timestamp::UNIX_EPOCH,
    })
    .unwrap()
}

#[tokio::test]
async fn a_reset_is_made_once_for_an_action_however_often_it_is_sent() {
    let place = Place::set("reset").await;
    let instance = place.instance();
    let seen = instance.state().await.unwrap();
    assert_eq!(seen.state, State::Running);
    assert!(seen.last_start.is_some());
    instance.reset(permit("services-1")).await.unwrap();
    instance.reset(permit("services-1")).await.unwrap();
    assert_eq!(place.pressed(), [Order::Reset]);
    instance.reset(permit("services-2")).await.unwrap();
    assert_eq!(place.pressed(), [Order::Reset, Order::Reset]);
}

#[tokio::test]
async fn what_the_account_may_not_do_is_not_done_and_needs_a_person() {
    let place = Place::set("rights").await;
    let instance = place.instance_of(&place.viewer, &host());
    assert_eq!(instance.state().await.unwrap().state, State::Running);
    let error = instance.reset(permit("services-1")).await.unwrap_err();
    assert!(matches!(&error.fault, Fault::Forbidden { said } if said.contains("compute.instances.reset")), "{error:?}");
    assert_eq!((error.retryability(), error.may_have_happened()), (Retryability::Person, false));
    assert_eq!(place.pressed(), []);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let place = Place::set("missing").await;
    for host in [
        GceHost { instance: "binder-nobody".into(), ..host() },
        GceHost { zone: "us-central1-a".into(), ..host() },
        GceHost { project: "somebody-else".into(), ..host() },
    ] {
        let error = place.instance_of(&place.operator, &host).reset(permit("services-1")).await.unwrap_err();
        assert!(matches!(error.fault, Fault::NotFound { .. }), "{error:?}");
        assert_eq!(error.retryability(), Retryability::Person);
    }
    assert_eq!(place.pressed(), []);
}

#[tokio::test]
async fn a_login_key_is_added_to_those_that_are_there_and_lets_in() {
    let place = Place::set("key").await;
    let instance = place.instance();
    let key = || SshKey::new("andrew", KEY).unwrap();
    assert_eq!(instance.add_ssh_key(permit("key-1"), key()).await.unwrap(), KeyAdded::Added);
    let metadata = Metadata::read(&place.metadata()).unwrap();
    assert_eq!(metadata.get("startup-script"), Some("#!/bin/sh"));
    let keys = format!("carol:ssh-rsa AAAA carol@example.org\nandrew:{KEY} binder-operator");
    assert_eq!(metadata.get(KEYS), Some(keys.as_str()));
    let text = place.authorized(|text| text.contains(KEY)).await;
    assert!(text.starts_with("ssh-rsa AAAA somebody@else\n") && !text.contains("carol"), "{text}");
    assert_eq!(instance.add_ssh_key(permit("key-2"), key()).await.unwrap(), KeyAdded::AlreadyThere);
    assert_eq!(Metadata::read(&place.metadata()).unwrap(), metadata);
    assert_eq!(place.pressed(), [], "nothing is restarted");

    // Somebody takes it away again, in the console.
    let mut without = metadata;
    without.set(KEYS, String::new());
    without.write(&place.metadata()).unwrap();
    place.authorized(|text| !text.contains(KEY)).await;
}

#[tokio::test]
async fn of_several_who_add_keys_at_once_none_loses_hers() {
    let place = Place::set("conflict").await;
    // Whoever comes second meets a fingerprint of the past, and reads again. Of four, the last has to at most three times.
    let add = |user: &'static str| {
        let instance = place.instance();
        async move { instance.add_ssh_key(permit(user), SshKey::new(user, KEY).unwrap()).await }
    };
    let users = ["andrew", "beate", "chris", "dora"];
    for added in futures::future::join_all(users.map(add)).await {
        assert_eq!(added.unwrap(), KeyAdded::Added);
    }
    let metadata = Metadata::read(&place.metadata()).unwrap();
    let keys = metadata.get(KEYS).unwrap();
    for line in users.map(|user| format!("{user}:{KEY}")).iter().chain([&"carol:ssh-rsa AAAA".to_owned()]) {
        assert!(keys.contains(line), "{line} is not in {keys}");
    }
    assert_eq!(metadata.get("startup-script"), Some("#!/bin/sh"));
}

#[tokio::test]
async fn tokens_that_were_taken_back_are_replaced() {
    let place = Place::set("tokens").await;
    let instance = place.instance();
    instance.state().await.unwrap();
    place.service.revoke_tokens();
    instance.reset(permit("services-1")).await.unwrap();
    assert_eq!(place.pressed(), [Order::Reset]);
}

#[tokio::test]
async fn a_key_of_somebody_else_gets_no_token() {
    let place = Place::set("stranger").await;
    let mut json = place.operator.key_file(place.service.base());
    json["private_key"] = place.viewer.key_file(place.service.base())["private_key"].clone();
    let gce = Gce::new(place.service.base().parse().unwrap());
    let instance = gce.instance(&host(), &SecretString::from(json.to_string())).unwrap();
    let error = instance.reset(permit("services-1")).await.unwrap_err();
    let told = binder_lab::said(&error);
    assert!(told.contains("no token for operator@") && told.contains("Invalid JWT Signature"), "{told}");
    assert_eq!((error.retryability(), error.may_have_happened()), (Retryability::Person, false));

    // Nor is one asked for at a place that is not the endpoint's.
    json["token_uri"] = "http://127.0.0.1:9/token".into();
    let error = gce.instance(&host(), &SecretString::from(json.to_string())).err().unwrap();
    assert!(matches!(error.fault, Fault::Credentials(BadCredentials::TokenUri)), "{error:?}");
}

#[tokio::test]
async fn an_instance_that_is_off_is_started_and_not_reset() {
    let place = Place::set("off").await;
    let instance = place.instance();
    // Stopping is nothing that the operator can do; somebody did it.
    place.button.press(Order::Stop).await.unwrap();
    assert_eq!(instance.state().await.unwrap().state, State::Stopped);
    let error = instance.reset(permit("services-1")).await.unwrap_err();
    assert!(matches!(error.fault, Fault::NotReady { .. }), "{error:?}");
    instance.start(permit("services-2")).await.unwrap();
    assert_eq!(instance.state().await.unwrap().state, State::Running);
    assert_eq!(place.pressed(), [Order::Stop, Order::Start]);
}
