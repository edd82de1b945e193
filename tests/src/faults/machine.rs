//! Faults of a whole machine: its cable, its processes as a whole.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "host-cut",
        does: "its network cable is pulled: nobody reaches it, and it reaches nobody",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: CUT,
        undo: Some(PLUG),
    },
    Fault {
        name: "host-hung",
        does: "every process stops where it stands: connections stay open, nobody answers",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: FREEZE,
        undo: Some(THAW),
    },
];

const CUT: Act = |site| Box::pin(cut(site));
const PLUG: Act = |site| Box::pin(async move { Ok(site.host.set_cable(true).await?) });
const FREEZE: Act = |site| Box::pin(async move { Ok(site.host.freeze().await?) });
const THAW: Act = |site| Box::pin(async move { Ok(site.host.thaw()?) });

async fn cut(site: Site<'_>) -> Result<(), FaultError> {
    site.host.set_cable(false).await?;
    shows(site.host, "the cable is pulled", "[ \"$(cat /sys/class/net/eth0/carrier)\" = 0 ]", &[]).await
}
