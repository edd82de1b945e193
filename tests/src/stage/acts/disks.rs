//! Acts on disks and Docker.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[Act {
    fault: "disk-filling",
    host: "binder-tester-2",
    title: "Docker's disk is over its threshold",
    condition: conditions::DISK_BELOW_THRESHOLD,
    reason: "OverThreshold",
    steps: &[],
    world: "the disk below its threshold",
    look: |stage| Box::pin(world::disk_below(stage)),
    in_demo: true,
}];
