//! The redirects of incoming connections, from `iptables -t nat -S PREROUTING`.

use super::{Answer, Ask, Blind, text};

/// The section's name.
pub const NAME: &str = "nat";

/// Reads the chain. `-w 3` waits at most three seconds for somebody else's change to end.
const SCRIPT: &str = r#"
set -u
sudo -n timeout 2 true 2>/dev/null || exit 77
command -v iptables >/dev/null || sudo -n timeout 2 sh -c 'command -v iptables' >/dev/null || exit 127
exec sudo -n timeout 5 iptables -w 3 -t nat -S PREROUTING
"#;

/// The section of the probe.
pub fn ask() -> Ask {
    Ask { name: NAME, script: SCRIPT, args: Vec::new(), seconds: 6, max_bytes: 1 << 18 }
}

/// One rule that redirects a TCP port, whatever else it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The interface that it is for; none: all.
    pub interface: Option<String>,
    /// The port that clients connect to.
    pub from: u16,
    /// The local port that gets them.
    pub to: u16,
    /// Whether it is word for word the rule that the runbook makes, with nothing more to it.
    pub plain: bool,
}

/// Reads the section. Rules that do not redirect a TCP port are passed over.
///
/// # Errors
/// [`Blind`] when the section was not completed or sudo wants a password.
pub fn read(answer: Option<&Answer>) -> Result<Vec<Redirect>, Blind> {
    Ok(text(answer, "the port redirects")?.lines().filter_map(redirect).collect())
}

fn redirect(line: &str) -> Option<Redirect> {
    let words = shlex::split(line)?;
    let after = |flag: &str| words.iter().position(|word| word == flag).and_then(|at| words.get(at + 1));
    if words.first()? != "-A" || words.get(1)? != "PREROUTING" || after("-j")? != "REDIRECT" || after("-p")? != "tcp" {
        return None;
    }
    let from = after("--dport")?.parse().ok()?;
    let to = after("--to-ports")?.parse().ok()?;
    let interface = after("-i").cloned();
    let plain = interface.as_ref().is_some_and(|interface| line.trim_end() == rule(interface, from, to));
    Some(Redirect { interface, from, to, plain })
}

/// The runbook's rule as `iptables -S` prints it.
fn rule(interface: &str, from: u16, to: u16) -> String {
    format!("-A PREROUTING -i {interface} -p tcp -m tcp --dport {from} -j REDIRECT --to-ports {to}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::Reason;
    use proptest::prelude::*;

    #[test]
    fn redirects_are_told_from_other_rules() {
        let text = "-P PREROUTING ACCEPT\n\
            -A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000\n\
            -A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -m comment --comment \"it's -j mine\" -j REDIRECT --to-ports 3000\n\
            -A PREROUTING -i eth0 -p udp -m udp --dport 80 -j REDIRECT --to-ports 3000\n\
            -A PREROUTING -p tcp -m tcp --dport 443 -j DNAT --to-destination 10.0.0.1\n";
        let rules = read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 })).unwrap();
        assert_eq!(rules.len(), 2);
        assert!(rules[0].plain && !rules[1].plain);
        assert_eq!((rules[0].interface.as_deref(), rules[0].from, rules[0].to), (Some("eth0"), 80, 3000));
    }

    #[test]
    fn a_sudo_that_asks_has_its_own_reason() {
        let refused = Answer::Said { bytes: Vec::new(), exit: 77 };
        assert_eq!(read(Some(&refused)).unwrap_err().reason, Reason::SudoNeedsPassword);
    }

    proptest! {
        #[test]
        fn any_rule_is_survived(rest in ".{0,200}") {
            let line = format!("-A PREROUTING -p tcp {rest}");
            let _ = read(Some(&Answer::Said { bytes: line.into_bytes(), exit: 0 }));
        }
    }
}
