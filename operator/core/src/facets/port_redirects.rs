//! Facet `port_redirects`: connections to each described port reach the described one, by the runbook's rule, once. Twice works
//! as well as once until somebody deletes "the" rule; an earlier rule for the same port makes ours useless.

use super::step::{Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, kinds_of_steps};
use super::{Check, Drift, DriftKind, Facet, Rung, Subject};
use crate::gate::demands::Demands;
use crate::seen::nat::{Led, Nat};
use crate::seen::{Ask, Observation, Reason, Unknown, nat};
use binder_crds::desired::PortRedirect;
use binder_crds::text::{BadText, Checked, InterfaceName};
use binder_crds::{Desired, conditions};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The facet.
pub struct PortRedirects;

/// iptables acts at once; the time is for waiting on its lock.
const TAKES_EFFECT: Duration = Duration::from_secs(15);

impl Facet for PortRedirects {
    fn condition(&self) -> &'static str {
        conditions::REDIRECT_IN_PLACE
    }

    fn in_use(&self, desired: &Desired) -> bool {
        !desired.port_redirects.is_empty()
    }

    fn asks(&self, _: &Desired) -> Vec<Ask> {
        vec![nat::ask()]
    }

    fn check(&self, desired: &Desired, seen: &Observation) -> Result<Check, Unknown> {
        let nat = seen.nat.get()?;
        let mut check = Check::default();
        let mut fine = Vec::new();
        for wanted in &desired.port_redirects {
            match look(wanted, nat)? {
                Ok(words) => fine.push(words),
                Err(drift) => check.drifts.push(drift),
            }
        }
        if nat.legacy {
            fine.push("iptables-legacy has tables of its own, which are not looked at".to_owned());
        }
        check.as_described = fine.join("; ");
        Ok(check)
    }

    fn rank(&self, _: &Desired, _: &Drift) -> u8 {
        55
    }

    fn ladder(&self, desired: &Desired, _: &Observation, drift: &Drift) -> Vec<Rung> {
        let Some(wanted) = desired.port_redirects.iter().find(|wanted| subject(wanted) == drift.subject) else {
            return Vec::new();
        };
        let (interface, from, to) = (wanted.interface.0.clone(), wanted.from, wanted.to);
        let step = match drift.kind {
            DriftKind::RedirectMissing => Step::InsertRedirect { interface, from, to },
            DriftKind::RedirectDoubled => Step::DeleteExtraRedirects { interface, from, to },
            // A rule of somebody else's is not ours to delete.
            _ => return Vec::new(),
        };
        vec![Rung::new(step, TAKES_EFFECT)]
    }
}

fn words(wanted: &PortRedirect) -> String {
    format!("{} {} -> {}", wanted.interface, wanted.from, wanted.to)
}

fn subject(wanted: &PortRedirect) -> Subject {
    Subject::Redirect { interface: wanted.interface.0.clone(), from: wanted.from }
}

/// A sentence about a redirect that is in place, or its drift.
///
/// # Errors
/// [`Unknown`] when an earlier rule cannot be judged.
fn look(wanted: &PortRedirect, nat: &Nat) -> Result<Result<String, Drift>, Unknown> {
    let drift = |kind, short: String, evidence| Ok(Err(Drift { kind, subject: subject(wanted), short, evidence }));
    let interface = &wanted.interface.0;
    if !nat.interfaces.contains(interface) {
        // A machine has a bridge and a cable for each container: a few names are enough to find the right one.
        let virtual_ones = ["lo", "veth", "docker", "br-", "cbr", "cali", "flannel"];
        let there: Vec<&str> = nat
            .interfaces
            .iter()
            .map(String::as_str)
            .filter(|name| !virtual_ones.iter().any(|begin| name.starts_with(begin)))
            .take(4)
            .collect();
        return drift(
            DriftKind::InterfaceMissing,
            format!("no interface {interface}"),
            format!(
                "this machine has no network interface {interface} (it has {}): correct portRedirects[].interface",
                if there.is_empty() { "none but virtual ones".to_owned() } else { there.join(", ") }
            ),
        );
    }
    let judged = nat.judge(interface, wanted.from, wanted.to);
    match (judged.led, judged.plain) {
        (Led::Unsure(rule), _) => Err(Unknown {
            reason: Reason::NotJudged,
            message: format!(
                "whether connections to {interface}:{} reach {} cannot be judged, because of the rule `{rule}`",
                wanted.from, wanted.to
            ),
        }),
        (Led::Redirected(to, _), plain) if to == wanted.to && plain <= 1 => {
            let form = if plain == 1 { "once" } else { "by a rule of another form" };
            let partly = match judged.partly.first() {
                Some(rule) => format!(" (an earlier rule takes some clients: `{rule}`)"),
                None => String::new(),
            };
            Ok(Ok(format!("{}, {form}{partly}", words(wanted))))
        }
        (Led::Redirected(to, _), more) if to == wanted.to => drift(
            DriftKind::RedirectDoubled,
            format!("port {} is redirected {more} times", wanted.from),
            format!("the redirect {} is there {more} times", words(wanted)),
        ),
        (Led::Redirected(to, rule), _) => drift(
            DriftKind::RedirectShadowed,
            format!("port {} goes to {to}", wanted.from),
            format!("an earlier rule sends {interface} {} to {to}, not to {}: `{rule}`", wanted.from, wanted.to),
        ),
        (Led::Elsewhere(rule), _) => drift(
            DriftKind::RedirectShadowed,
            format!("port {} goes elsewhere", wanted.from),
            format!(
                "an earlier rule takes {interface} {}, so that it does not reach {}: `{rule}`",
                wanted.from, wanted.to
            ),
        ),
        (Led::Nowhere, _) => drift(
            DriftKind::RedirectMissing,
            format!("port {} is not redirected", wanted.from),
            format!("the redirect {} is not there", words(wanted)),
        ),
    }
}

/// Appends the rule unless it is there by now. `-w` waits for others, as long as `timeout` lets it: with seconds it came with
/// iptables 1.6, and not at all before 1.4.20, which refuses it with exit code 2.
const INSERT_REDIRECT: &str = r#"
set -u
wait=-w
sudo -n timeout 10 iptables -w -t nat -S PREROUTING >/dev/null 2>&1 || [ $? -ne 2 ] || wait=
rule() { sudo -n timeout 10 iptables $wait -t nat "$1" PREROUTING -i "$2" -p tcp --dport "$3" -j REDIRECT --to-port "$4"; }
rule -C "$@" 2>/dev/null || rule -A "$@"
"#;

/// Deletes the rule while it is there more than once, counting anew each time. `-w` as above.
const DELETE_EXTRA_REDIRECTS: &str = r#"
set -u
interface=$1 from=$2 to=$3 wait=-w
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
  rules=$(sudo -n timeout 10 iptables $wait -t nat -S PREROUTING) || {
    [ $? -eq 2 ] && [ -n "$wait" ] || exit 1
    wait=
    continue
  }
  count=$(printf '%s\n' "$rules" | grep -Fxc -- "-A PREROUTING -i $interface -p tcp -m tcp --dport $from -j REDIRECT --to-ports $to")
  [ "$count" -gt 1 ] || exit 0
  sudo -n timeout 10 iptables $wait -t nat -D PREROUTING -i "$interface" -p tcp --dport "$from" -j REDIRECT --to-port "$to" || exit 1
done
"#;

/// A step against a redirect that is missing or there too often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Insert a redirect that is missing.
    InsertRedirect {
        /// The interface.
        interface: String,
        /// The port that clients connect to.
        from: u16,
        /// The local port that gets them.
        to: u16,
    },
    /// Delete a redirect until it is there once.
    DeleteExtraRedirects {
        /// The interface.
        interface: String,
        /// The port that clients connect to.
        from: u16,
        /// The local port that gets them.
        to: u16,
    },
}

kinds_of_steps!(Step: InsertRedirect, DeleteExtraRedirects);

impl Step {
    fn redirect(&self) -> (&String, u16, u16) {
        match self {
            Self::InsertRedirect { interface, from, to } | Self::DeleteExtraRedirects { interface, from, to } => {
                (interface, *from, *to)
            }
        }
    }
}

impl Remedy for Step {
    fn words(&self) -> String {
        match self {
            Self::InsertRedirect { interface, from, to } => format!("insert the redirect {interface} {from} -> {to}"),
            Self::DeleteExtraRedirects { interface, from, to } => {
                format!("delete the redirect {interface} {from} -> {to} until it is there once")
            }
        }
    }

    fn nature(&self) -> Nature<'_> {
        let demands = match self {
            Self::InsertRedirect { .. } => Demands::ONE_LOOK,
            Self::DeleteExtraRedirects { .. } => Demands::TWO_LOOKS,
        };
        Nature {
            touches: Touches::Nothing,
            demands,
            in_turn: false,
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: false,
            rests_on_age: false,
            starts: false,
            recovers: Recovers::Nothing,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        let (interface, ..) = self.redirect();
        InterfaceName(interface.clone()).checked().map(drop)
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        later.seen.nat.get()?;
        let (interface, from, to) = self.redirect();
        let subject = Subject::Redirect { interface: interface.clone(), from };
        Ok(later.without_drift(&subject, format!("{interface} {from} -> {to} is there once")))
    }

    fn how(&self) -> How {
        let (interface, from, to) = self.redirect();
        let args = vec![interface.clone(), from.to_string(), to.to_string()];
        match self {
            Self::InsertRedirect { .. } => How::command("insert-redirect", INSERT_REDIRECT, args, 20),
            Self::DeleteExtraRedirects { .. } => {
                How::command("delete-extra-redirects", DELETE_EXTRA_REDIRECTS, args, 20)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Fact;

    const OURS: &str = "-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000\n";

    fn described(interface: &str) -> Desired {
        let redirect = PortRedirect { interface: InterfaceName::from(interface), from: 80, to: 3000 };
        Desired { port_redirects: vec![redirect], ..Desired::default() }
    }

    fn check(interface: &str, rules: &str) -> (Result<Check, Unknown>, Vec<&'static str>) {
        let seen = Observation {
            nat: Fact::Seen(nat::Nat::of(rules, &[("eth0", std::net::Ipv4Addr::new(10, 0, 0, 2))])),
            ..Observation::nothing(jiff::Timestamp::UNIX_EPOCH)
        };
        let desired = described(interface);
        let check = PortRedirects.check(&desired, &seen);
        let drifts = check.as_ref().map(|check| check.drifts.clone()).unwrap_or_default();
        let steps = drifts.iter().flat_map(|drift| PortRedirects.ladder(&desired, &seen, drift));
        let steps = steps.map(|rung| rung.step.kind()).collect();
        (check, steps)
    }

    #[test]
    fn an_interface_that_does_not_exist_is_said_and_gets_no_rule() {
        // cases.md, 24: iptables takes the rule, and port 80 is dead.
        let (check, steps) = check("ens4", &OURS.replace("eth0", "ens4"));
        let drift = check.unwrap().drifts.remove(0);
        assert_eq!((drift.kind, steps), (DriftKind::InterfaceMissing, vec![]));
        assert!(drift.evidence.contains("eth0"), "{}", drift.evidence);
    }

    #[test]
    fn a_redirect_is_inserted_only_where_nothing_takes_the_port() {
        let dnat = "-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.5:8080\n";
        let odd = "-A PREROUTING -p tcp -m statistic --mode nth -j ACCEPT\n";
        let all = "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000\n";
        assert_eq!(check("eth0", "").1, ["InsertRedirect"]);
        assert_eq!(check("eth0", &OURS.repeat(2)).1, ["DeleteExtraRedirects"]);
        for (rules, kind) in [
            (dnat.to_owned(), Some(DriftKind::RedirectShadowed)),
            (format!("{dnat}{OURS}"), Some(DriftKind::RedirectShadowed)),
            (all.to_owned(), None),
            (OURS.to_owned(), None),
        ] {
            let (check, steps) = check("eth0", &rules);
            assert_eq!(check.unwrap().drifts.first().map(|drift| drift.kind), kind, "{rules}");
            assert_eq!(steps, Vec::<&str>::new());
        }
        for rules in [odd.to_owned(), format!("{odd}{OURS}")] {
            let blind = check("eth0", &rules).0.unwrap_err();
            assert!(blind.message.contains("statistic"), "{}", blind.message);
        }
    }
}
