//! Faults of a whole machine: its cable, its processes as a whole, its disk.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows};
use crate::inventory::Role;

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
    Fault {
        name: "disk-filling",
        does: "unused Docker images fill the build host's disk to over 90 %",
        healed_by: Healer::Mend,
        target: Target::The(Role::Build),
        inflict: FILL,
        undo: Some(EMPTY),
    },
];

const CUT: Act = |site| Box::pin(cut(site));
const PLUG: Act = |site| Box::pin(async move { Ok(site.host.set_cable(true).await?) });
const FREEZE: Act = |site| Box::pin(async move { Ok(site.host.freeze().await?) });
const THAW: Act = |site| Box::pin(async move { Ok(site.host.thaw()?) });
const FILL: Act = |site| Box::pin(fill(site));
const EMPTY: Act = |site| Box::pin(empty(site));

async fn cut(site: Site<'_>) -> Result<(), FaultError> {
    site.host.set_cable(false).await?;
    shows(site.host, "the cable is pulled", "[ \"$(cat /sys/class/net/eth0/carrier)\" = 0 ]", &[]).await
}

/// Makes images that nobody uses, of a size such that `$1` per cent of the disk are in use. What an image holds is what
/// its layer takes: zeros, which ext4 stores like anything else.
const FILL_DISK: &str = r#"
total=$(df --output=size --block-size=1M /var/lib/docker | tail -n 1)
used=$(df --output=used --block-size=1M /var/lib/docker | tail -n 1)
missing=$((total * $1 / 100 - used))
n=0
while [ "$missing" -gt 0 ]; do
  size=$((missing > 100 ? 100 : missing))
  n=$((n + 1))
  folder=$(mktemp -d /tmp/image.XXXXXX)
  head -c "${size}M" /dev/zero > "$folder/filling"
  tar -C "$folder" -c filling | docker import - "binder-lab-filling:$n" >/dev/null
  rm -r "$folder"
  missing=$((missing - size))
done
"#;

/// Succeeds when at least `$1` per cent of the disk are in use.
const IN_USE: &str =
    "df /var/lib/docker | tail -n 1; [ \"$(df --output=pcent /var/lib/docker | tail -n 1 | tr -dc 0-9)\" -ge \"$1\" ]";

async fn fill(site: Site<'_>) -> Result<(), FaultError> {
    shows(site.host, "Docker answers", "docker version", &[]).await?;
    site.host.script(FILL_DISK, &["93"]).await?;
    shows(site.host, "the disk is over 90 % full", IN_USE, &["91"]).await
}

async fn empty(site: Site<'_>) -> Result<(), FaultError> {
    let remove =
        "docker image ls --quiet binder-lab-filling | xargs --no-run-if-empty docker image rm --force >/dev/null";
    site.host.script(remove, &[]).await?;
    shows(site.host, "the disk has room again", "[ \"$(df --output=pcent / | tail -n 1 | tr -dc 0-9)\" -lt 85 ]", &[])
        .await
}
