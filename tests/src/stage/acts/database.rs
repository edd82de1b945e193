//! Acts on the database.

use binder_crds::conditions;

use super::{Act, world};

pub(super) const ACTS: &[Act] = &[
    Act {
        fault: "hung-build",
        host: "binder-services",
        title: "a build has been running for far too long",
        condition: conditions::BUILDS_ADVANCING,
        reason: "HungBuild",
        steps: &["FailBuild", "RebuildBuild"],
        consequences: &[],
        world: "a new build of that name that has ended by itself",
        look: |stage| Box::pin(world::built_again(stage)),
        in_demo: false,
    },
    Act {
        fault: "name-case",
        host: "binder-services",
        title: "two builds differ by case alone",
        condition: conditions::NAMES_USABLE,
        reason: "NameNotLower",
        steps: &[],
        consequences: &[],
        world: "the build of the other case as it was",
        look: |stage| Box::pin(world::names_told_apart(stage)),
        in_demo: false,
    },
];
