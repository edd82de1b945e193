//! Where connections from outside are led, from `iptables -t nat -S`: every rule that they meet in `PREROUTING` and in the
//! chains below it, read as iptables would follow it. A rule that is not understood is never passed over in silence.

use super::script::{self, script};
use super::{Answer, Ask, Reason, Unknown};
use crate::sanitize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The section's name.
pub const NAME: &str = "nat";

/// Reads the table. `-w` waits for somebody else's change to end, at most as long as `timeout` lets it: with seconds it came
/// with iptables 1.6 (2015), and not at all before 1.4.20 (2013), which refuses it with exit code 2.
const SCRIPT: &str = script!(
    r#"
table() { root timeout 5 iptables "$@" -t nat -S; }
try table -w || { [ "$code" = 2 ] && try table; } || fail iptables
run rule printf '%s\n' "$out"
[ -z "$words" ] || run note printf '%s\n' "$words"
run net cat /proc/net/dev
if try ip -o -4 addr show; then run addr printf '%s\n' "$out"; fi
end
"#
);

/// The section of the probe.
pub fn ask() -> Ask {
    Ask { name: NAME, script: SCRIPT, args: Vec::new(), seconds: 8, max_bytes: 1 << 19 }
}

/// The chain that connections from outside meet first.
const FIRST: &str = "PREROUTING";
/// How deep chains are followed, and how many rules in all: iptables itself refuses loops.
const DEEPEST: usize = 16;
const MOST: usize = 20_000;
/// The most of a rule that is shown, in characters.
const SHOWN: usize = 160;

/// The NAT rules for connections from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// Rules by chain, in order.
    chains: BTreeMap<String, Vec<Rule>>,
    /// The names of the network interfaces.
    pub interfaces: BTreeSet<String>,
    /// The machine's own addresses, by interface.
    addresses: Vec<(String, Ipv4Addr)>,
    /// Whether the older `iptables-legacy` has tables of its own, which are not seen.
    pub legacy: bool,
}

impl Nat {
    /// These rules, one a line as iptables prints them, on a machine with these addresses beside its loopback interface.
    pub fn of(rules: &str, addresses: &[(&str, Ipv4Addr)]) -> Self {
        let mut nat = Self::default();
        rules.lines().for_each(|line| nat.add(line));
        let names = addresses.iter().map(|(name, _)| *name);
        nat.interfaces = names.chain(["lo"]).map(str::to_owned).collect();
        nat.addresses = addresses.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        nat
    }
}

/// Where a connection to a port is led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Led {
    /// No rule takes it.
    Nowhere,
    /// To a local port, by this rule.
    Redirected(u16, String),
    /// Somewhere else, or past the rules that follow, by this rule.
    Elsewhere(String),
    /// By this rule, and that it takes the connection cannot be said.
    Unsure(String),
}

/// What the rules do with one described redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Where connections are led.
    pub led: Led,
    /// How often the runbook's rule is there, word for word.
    pub plain: usize,
    /// Earlier rules that take the connections of some clients only.
    pub partly: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// As iptables prints it, clean and short.
    text: String,
    /// The runbook's rule, word for word: its interface and ports.
    plain: Option<(String, u16, u16)>,
    matches: Vec<(bool, Match)>,
    target: Target,
}

/// One condition of a rule; with it goes whether it is negated.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Match {
    Interface(String),
    Protocol(String),
    Ports(Vec<(u16, u16)>),
    Destination(Ipv4Addr, u32),
    /// Some clients only.
    Source,
    /// True of every new connection to this machine.
    Always,
    /// Not understood.
    Odd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Redirect(Option<u16>),
    /// The connection meets no rule of the table after this one.
    Ends,
    /// The chain is left.
    Return,
    Passes,
    Chain(String, bool),
    Odd,
}

/// Whether a rule takes a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fits {
    No,
    Unsure,
    Partly,
    Yes,
}

/// How a chain ends for a connection.
enum Walk {
    Led(Led),
    Returned,
}

impl Nat {
    /// What the rules do with connections to a port that come in by an interface and should go to a local port.
    pub fn judge(&self, interface: &str, from: u16, to: u16) -> Judged {
        let first = self.chains.get(FIRST).map(Vec::as_slice).unwrap_or_default();
        let ours = (interface.to_owned(), from, to);
        let plain = first.iter().filter(|rule| rule.plain.as_ref() == Some(&ours)).count();
        let mut partly = Vec::new();
        let mut left = MOST;
        let led = match self.walk(FIRST, interface, from, 0, &mut left, &mut partly) {
            Walk::Led(led) => led,
            Walk::Returned => Led::Nowhere,
        };
        Judged { led, plain, partly }
    }

    /// Takes a line of `iptables -S`.
    fn add(&mut self, line: &str) {
        if let Some(chain) = line.strip_prefix("-N ") {
            self.chains.entry(chain.to_owned()).or_default();
        }
        if let Some((chain, rule)) = rule(line) {
            self.chains.entry(chain).or_default().push(rule);
        }
    }

    fn walk(
        &self,
        chain: &str,
        interface: &str,
        port: u16,
        depth: usize,
        left: &mut usize,
        partly: &mut Vec<String>,
    ) -> Walk {
        let rules = self.chains.get(chain).map(Vec::as_slice).unwrap_or_default();
        for rule in rules {
            let shown = || rule.text.clone();
            *left = left.saturating_sub(1);
            if *left == 0 || depth > DEEPEST {
                return Walk::Led(Led::Unsure(shown()));
            }
            let fits = self.fits(rule, interface, port);
            if fits == Fits::No {
                continue;
            }
            let ends = match &rule.target {
                Target::Passes => continue,
                Target::Redirect(to) => Walk::Led(Led::Redirected(to.unwrap_or(port), shown())),
                Target::Ends => Walk::Led(Led::Elsewhere(shown())),
                Target::Return if depth == 0 => Walk::Led(Led::Elsewhere(shown())),
                Target::Return => Walk::Returned,
                Target::Odd => return Walk::Led(Led::Unsure(shown())),
                // What is no chain is a target that is not known here.
                Target::Chain(next, _) if !self.chains.contains_key(next) => Walk::Led(Led::Unsure(shown())),
                Target::Chain(next, gone) => {
                    // What some clients only meet below is theirs only.
                    match self.walk(next, interface, port, depth + 1, left, partly) {
                        Walk::Returned if *gone && depth > 0 => Walk::Returned,
                        Walk::Returned if *gone => Walk::Led(Led::Elsewhere(shown())),
                        Walk::Returned => continue,
                        led => led,
                    }
                }
            };
            match (fits, ends) {
                (_, Walk::Led(unsure @ Led::Unsure(_))) => return Walk::Led(unsure),
                (Fits::Yes, ends) => return ends,
                (Fits::Partly, Walk::Led(_)) => partly.push(shown()),
                // Some clients leave a chain here: what comes below it may be met or not.
                (Fits::Partly | Fits::Unsure, _) => return Walk::Led(Led::Unsure(shown())),
                (Fits::No, _) => {}
            }
        }
        Walk::Returned
    }

    fn fits(&self, rule: &Rule, interface: &str, port: u16) -> Fits {
        let one = |(negated, one): &(bool, Match)| {
            let sure = |yes: bool| if yes != *negated { Fits::Yes } else { Fits::No };
            match one {
                Match::Interface(name) => sure(match name.strip_suffix('+') {
                    Some(begin) => interface.starts_with(begin),
                    None => interface == name,
                }),
                Match::Protocol(name) => sure(matches!(name.as_str(), "tcp" | "all" | "6" | "0")),
                Match::Ports(ranges) => sure(ranges.iter().any(|(low, high)| (*low..=*high).contains(&port))),
                Match::Destination(net, bits) => {
                    let mut own = self.addresses.iter().filter(|(name, _)| name == interface).peekable();
                    let within = |address: &Ipv4Addr| {
                        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                        u32::from(*address) & mask == u32::from(*net) & mask
                    };
                    if own.peek().is_none() {
                        return Fits::Unsure;
                    }
                    let (mut all, mut any) = (true, false);
                    for (_, address) in own {
                        all &= within(address);
                        any |= within(address);
                    }
                    // An address of no interface is no address under which people reach this machine.
                    if all || !any { sure(any) } else { Fits::Partly }
                }
                Match::Source => Fits::Partly,
                Match::Always => sure(true),
                Match::Odd => Fits::Unsure,
            }
        };
        rule.matches.iter().map(one).fold(Fits::Yes, |fits, one| match (fits, one) {
            (Fits::No, _) | (_, Fits::No) => Fits::No,
            (Fits::Unsure, _) | (_, Fits::Unsure) => Fits::Unsure,
            (Fits::Partly, _) | (_, Fits::Partly) => Fits::Partly,
            (Fits::Yes, Fits::Yes) => Fits::Yes,
        })
    }
}

/// Reads the section.
///
/// # Errors
/// [`Unknown`] when the section was not completed, sudo refuses, or the table lacks the chain that every such table has.
pub fn read(answer: Option<&Answer>) -> Result<Nat, Unknown> {
    let text = script::whole(answer, "the port redirects")?;
    let garbage = |what: &str| Unknown {
        reason: Reason::Garbage,
        message: format!("the port redirects: the host did not tell {what}"),
    };
    let mut nat = Nat::default();
    let mut policy = false;
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "rule" if rest.starts_with("-P PREROUTING ") => policy = true,
            "rule" => nat.add(rest),
            "note" => nat.legacy |= rest.contains("legacy tables present"),
            "net" => nat.interfaces.extend(interface(rest)),
            "addr" => nat.addresses.extend(address(rest)),
            _ => {}
        }
    }
    if !policy {
        return Err(garbage("its table: `iptables -t nat -S` lacks the chain PREROUTING"));
    }
    if !nat.interfaces.contains("lo") {
        return Err(garbage("its network interfaces: /proc/net/dev lacks lo"));
    }
    Ok(nat)
}

/// A line of `/proc/net/dev`: `  eth0: 1 2 3 ...`.
fn interface(line: &str) -> Option<String> {
    let (name, _) = line.split_once(':')?;
    let name = name.trim();
    // The kernel's limit (`IFNAMSIZ`) is 15.
    let fine = !name.is_empty() && name.len() <= 15 && name.chars().all(|c| c.is_ascii_graphic());
    fine.then(|| name.to_owned())
}

/// A line of `ip -o -4 addr show`: `2: eth0    inet 10.0.0.2/24 brd ...`.
fn address(line: &str) -> Option<(String, Ipv4Addr)> {
    let mut words = line.split_whitespace().skip(1);
    let name = words.next()?.split('@').next()?.to_owned();
    let address = words.skip_while(|word| *word != "inet").nth(1)?;
    Some((name, address.split('/').next()?.parse().ok()?))
}

/// A rule as `iptables -S` prints it, and the chain that it is in. What cannot be read as one counts as a rule of which nothing
/// is known.
fn rule(line: &str) -> Option<(String, Rule)> {
    let text = sanitize(line.as_bytes(), SHOWN);
    let words = shlex::split(line).unwrap_or_else(|| line.split_whitespace().map(str::to_owned).collect());
    let [add, chain, rest @ ..] = words.as_slice() else { return None };
    if add != "-A" {
        return None;
    }
    let mut rule = Rule { text, plain: None, matches: Vec::new(), target: Target::Passes };
    let mut rest = rest.iter().map(String::as_str);
    let mut negated = false;
    let mut module = String::new();
    while let Some(word) = rest.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let this = std::mem::take(&mut negated);
        let mut next = || rest.next().unwrap_or_default();
        let found = match word {
            "-i" => Match::Interface(next().to_owned()),
            "-p" => Match::Protocol(next().to_owned()),
            "-s" => {
                next();
                Match::Source
            }
            "-d" => destination(next()).unwrap_or(Match::Odd),
            "--dport" | "--dports" | "--destination-port" | "--destination-ports" => {
                ports(next()).map_or(Match::Odd, Match::Ports)
            }
            "--sport" | "--sports" | "--source-port" | "--source-ports" => {
                next();
                Match::Source
            }
            // Without what a module asks for it matches everything.
            "-m" | "--match" => {
                module = next().to_owned();
                if matches!(
                    module.as_str(),
                    "tcp" | "comment" | "multiport" | "addrtype" | "conntrack" | "state" | "iprange"
                ) {
                    continue;
                }
                Match::Odd
            }
            "--comment" => {
                next();
                continue;
            }
            "--dst-type" if next() == "LOCAL" => Match::Always,
            // The table meets the first packet of a connection only.
            "--ctstate" | "--state" if next().split(',').any(|state| state == "NEW") => Match::Always,
            "--syn" => Match::Always,
            "--tcp-flags" => {
                let (mask, set) = (next().to_owned(), next().to_owned());
                if set == "SYN" && mask.split(',').any(|flag| flag == "SYN") { Match::Always } else { Match::Odd }
            }
            "--src-range" => {
                next();
                Match::Source
            }
            "-j" | "-g" => {
                rule.target = target(next(), word == "-g");
                continue;
            }
            "--to-ports" | "--to-port" if matches!(rule.target, Target::Redirect(_)) => {
                rule.target = next().parse().map_or(Target::Ends, |port| Target::Redirect(Some(port)));
                continue;
            }
            // Whatever a target takes besides changes nothing of who is led away.
            _ if rule.target != Target::Passes || module == "comment" => continue,
            _ => Match::Odd,
        };
        rule.matches.push((this, found));
    }
    rule.plain = plain(line, &rule).filter(|_| chain == FIRST);
    Some((chain.clone(), rule))
}

fn target(name: &str, gone: bool) -> Target {
    match name {
        "REDIRECT" => Target::Redirect(None),
        "DNAT" | "ACCEPT" | "DROP" | "NETMAP" | "TPROXY" | "QUEUE" | "NFQUEUE" => Target::Ends,
        "RETURN" => Target::Return,
        "LOG" | "NFLOG" | "ULOG" | "MARK" | "CONNMARK" | "TRACE" | "SET" | "AUDIT" | "DSCP" | "TOS" | "CLASSIFY"
        | "CT" => Target::Passes,
        "" => Target::Odd,
        chain => Target::Chain(chain.to_owned(), gone),
    }
}

/// `80`, `80:90`, `80,443,1000:2000`.
fn ports(text: &str) -> Option<Vec<(u16, u16)>> {
    let end = |text: &str, open: u16| if text.is_empty() { Some(open) } else { text.parse().ok() };
    text.split(',')
        .map(|part| match part.split_once(':') {
            Some((low, high)) => Some((end(low, 0)?, end(high, u16::MAX)?)),
            None => part.parse().ok().map(|port| (port, port)),
        })
        .collect()
}

fn destination(text: &str) -> Option<Match> {
    let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
    let bits = bits.parse().ok().filter(|bits| *bits <= 32)?;
    Some(Match::Destination(address.parse().ok()?, bits))
}

/// The runbook's rule as `iptables -S` prints it, with nothing more to it.
fn plain(line: &str, rule: &Rule) -> Option<(String, u16, u16)> {
    let Target::Redirect(Some(to)) = rule.target else { return None };
    let interface = rule.matches.iter().find_map(|(_, one)| match one {
        Match::Interface(name) => Some(name.clone()),
        _ => None,
    })?;
    let from = rule.matches.iter().find_map(|(_, one)| match one {
        Match::Ports(ranges) => ranges.first().map(|(low, _)| *low),
        _ => None,
    })?;
    let wanted = format!("-A PREROUTING -i {interface} -p tcp -m tcp --dport {from} -j REDIRECT --to-ports {to}");
    (line.trim_end() == wanted).then_some((interface, from, to))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::script::stand_in::Stage;
    use proptest::prelude::*;

    fn said(rules: &str) -> Nat {
        Nat::of(rules, &[("eth0", Ipv4Addr::new(10, 0, 0, 2))])
    }

    const OURS: &str = "-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000\n";

    fn judged(rules: &str) -> Judged {
        said(rules).judge("eth0", 80, 3000)
    }

    #[test]
    fn only_the_runbooks_rule_is_ours() {
        let rules = format!(
            "{OURS}-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -m comment --comment \"it's -j mine\" -j REDIRECT --to-ports 3000\n\
             -A PREROUTING -i eth0 -p udp -m udp --dport 80 -j REDIRECT --to-ports 3000\n\
             -A PREROUTING -p tcp -m tcp --dport 443 -j DNAT --to-destination 10.0.0.1\n{OURS}"
        );
        let judged = judged(&rules);
        assert_eq!(judged.plain, 2);
        assert!(matches!(judged.led, Led::Redirected(3000, _)), "{judged:?}");
        assert_eq!(self::judged("").led, Led::Nowhere);
        assert_eq!(self::judged("-A POSTROUTING -j MASQUERADE\n").led, Led::Nowhere);
    }

    #[test]
    fn a_rule_of_another_form_that_leads_there_leads_there() {
        for rule in [
            "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000",
            "-A PREROUTING -i eth+ -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 3000",
            "-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -m comment --comment web -j REDIRECT --to-ports 3000",
        ] {
            let judged = judged(rule);
            assert!(judged.plain == 0 && matches!(judged.led, Led::Redirected(3000, _)), "{rule}: {judged:?}");
        }
    }

    #[test]
    fn an_earlier_rule_that_takes_the_port_is_seen_in_every_form() {
        // cases.md, 22: each was followed by ours, and ours was said to be in place.
        for rules in [
            "-N DOCKER\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80\n",
            "-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.5:8080\n",
            "-A PREROUTING -i eth0 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j REDIRECT --to-ports 9040\n",
            "-A PREROUTING -i eth0 -p tcp -j REDIRECT --to-ports 9040\n",
            "-A PREROUTING -i eth+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\n",
            "-A PREROUTING ! -i lo -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\n",
            "-A PREROUTING -p tcp -m multiport --dports 443,80 -j REDIRECT --to-ports 8080\n",
            "-A PREROUTING -p tcp -m tcp --dport 1:1024 -j ACCEPT\n",
            "-A PREROUTING -d 10.0.0.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.5\n",
            "-N OWN\n-A PREROUTING -g OWN\n",
        ] {
            let judged = judged(&format!("{rules}{OURS}"));
            let elsewhere = match &judged.led {
                Led::Elsewhere(_) => true,
                Led::Redirected(to, _) => *to != 3000,
                Led::Nowhere | Led::Unsure(_) => false,
            };
            assert!(elsewhere && judged.plain == 1, "{rules}: {judged:?}");
        }
    }

    #[test]
    fn an_earlier_rule_for_something_else_shadows_nothing() {
        // cases.md, 23: each made ours "shadowed", for ever.
        for rules in [
            "-A PREROUTING ! -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\n",
            "-A PREROUTING -d 169.254.169.254/32 -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 1024\n",
            "-A PREROUTING -i eth0 -p tcp -m tcp ! --dport 80 -j REDIRECT --to-ports 12345\n",
            "-N DOCKER\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER -i docker0 -j RETURN\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 9050 -j DNAT --to-destination 172.17.0.2:9050\n",
            "-A PREROUTING -i eth0 -j LOG --log-prefix \"in -j DNAT\"\n",
            "-A PREROUTING -i docker+ -j ACCEPT\n",
            "-A PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -p udp -j ACCEPT\n",
        ] {
            let judged = judged(&format!("{rules}{OURS}"));
            assert!(matches!(judged.led, Led::Redirected(3000, _)), "{rules}: {judged:?}");
            assert_eq!(judged.partly, Vec::<String>::new());
        }
    }

    #[test]
    fn what_is_not_understood_is_never_in_place() {
        for rule in [
            "-A PREROUTING -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.0.0.5\n",
            "-A PREROUTING -p tcp -m set --match-set blocked src -j ACCEPT\n",
            "-A PREROUTING -p tcp -m tcp --dport x -j ACCEPT\n",
            "-A PREROUTING -p tcp -j SOMETHING\n",
        ] {
            assert!(matches!(judged(&format!("{rule}{OURS}")).led, Led::Unsure(_)), "{rule}");
        }
        let some = judged(&format!("-A PREROUTING -s 10.0.0.0/8 -p tcp -m tcp --dport 80 -j ACCEPT\n{OURS}"));
        assert!(matches!(some.led, Led::Redirected(3000, _)) && some.partly.len() == 1, "{some:?}");
    }

    const TABLE: &str = "echo '-P PREROUTING ACCEPT'\necho '-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000'";

    #[test]
    fn an_iptables_of_ten_years_ago_is_asked_in_its_own_way() {
        // coreos/go-iptables#82: 1.4.21 knows `-w` without seconds, 1.4.7 not at all.
        let seconds = "case \"$*\" in *'-w '[0-9]*) echo \"Bad argument \\`3'\" >&2; exit 2;; esac";
        let none = "case \"$*\" in *-w*) echo \"iptables v1.4.7: unknown option \\`-w'\" >&2; exit 2;; esac";
        for refuses in ["", seconds, none] {
            let nat = read(Some(&Stage::new().tool("iptables", &format!("{refuses}\n{TABLE}")).run(&ask()))).unwrap();
            assert_eq!(nat.judge("eth0", 80, 3000).plain, 1, "{refuses}");
            assert!(nat.interfaces.contains("lo"));
        }
    }

    #[test]
    fn a_table_that_is_not_whole_is_unknown() {
        for (iptables, reason, words) in [
            ("exit 0", Reason::Garbage, "PREROUTING"),
            ("echo 'Bad argument `3'\"'\" >&2; exit 2", Reason::ProbeFailed, "Bad argument"),
            (
                "echo 'Another app is currently holding the xtables lock.' >&2; exit 4",
                Reason::ProbeFailed,
                "xtables lock",
            ),
            ("exit 1", Reason::ProbeFailed, "iptables failed with exit code 1"),
        ] {
            let blind = read(Some(&Stage::new().tool("iptables", iptables).run(&ask()))).unwrap_err();
            assert_eq!(blind.reason, reason, "{}", blind.message);
            assert!(blind.message.contains(words), "{}", blind.message);
        }
        let blind = read(Some(&Stage::new().without("iptables").run(&ask()))).unwrap_err();
        assert_eq!(blind.reason, Reason::NotInstalled, "{}", blind.message);
    }

    #[test]
    fn a_sudo_that_refuses_has_its_own_reason_and_words() {
        for (words, reason) in [
            ("sudo: a password is required", Reason::SudoNeedsPassword),
            ("sudo: sorry, you must have a tty to run sudo", Reason::SudoNeedsTty),
            ("Sorry, user andrew is not allowed to execute iptables as root on web.", Reason::SudoNotAllowed),
        ] {
            let stage = Stage::new().tool("id", "echo 1000").tool("sudo", &format!("echo '{words}' >&2\nexit 1"));
            assert_eq!(read(Some(&stage.run(&ask()))).unwrap_err().reason, reason);
        }
    }

    proptest! {
        #[test]
        fn any_rule_is_survived(rest in ".{0,200}") {
            let _ = said(&format!("-A PREROUTING -p tcp {rest}\n-A PREROUTING {rest}")).judge("eth0", 80, 3000);
            let _ = read(Some(&Answer::Said { bytes: format!("rule {rest}\nnet {rest}\naddr {rest}\nend").into_bytes(), exit: 0 }));
        }
    }
}
