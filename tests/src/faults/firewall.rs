//! Faults of the packet filter.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows};
use crate::inventory::Role;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "redirect-lost",
        does: "the rule that leads port 80 to the web server is flushed",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: LOSE,
        undo: None,
    },
    Fault {
        name: "redirect-doubled",
        does: "the rule that leads port 80 to the web server is there twice",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: DOUBLE,
        undo: None,
    },
];

/// Succeeds when the redirect is there `$1` times.
const TIMES: &str = "count=$(iptables -w 10 -t nat -S PREROUTING | grep -c 'dport 80 .*to-ports 3000' || true); \
    echo \"there $count times\"; [ \"$count\" = \"$1\" ]";

/// Puts the runbook's rule there twice, in one transaction: whoever looks sees it once or twice, and never not at all.
const TWICE: &str = r#"
rule='-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3000'
printf '*nat\n-F PREROUTING\n%s\n%s\nCOMMIT\n' "$rule" "$rule" | iptables-restore -w 10 --noflush
"#;

const LOSE: Act = |site| Box::pin(lose(site));
const DOUBLE: Act = |site| Box::pin(double(site));

async fn lose(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script("iptables -w 10 -t nat -F PREROUTING", &[]).await?;
    shows(site.host, "the redirect is gone", TIMES, &["0"]).await
}

async fn double(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script(TWICE, &[]).await?;
    shows(site.host, "the redirect is there twice", TIMES, &["2"]).await
}
