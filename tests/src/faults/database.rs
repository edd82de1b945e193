//! Faults in the database: rows that Binder's own software left there, or that people made.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows, unseen};
use crate::inventory::{Role, with_role};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "hung-build",
        does: "a build has been said to be running for years, and nobody works at it",
        healed_by: Healer::Operator,
        target: Target::The(Role::Services),
        inflict: HUNG,
        undo: None,
    },
    Fault {
        name: "name-case",
        does: "a build and its template are there a second time, under a name that only its case tells apart",
        healed_by: Healer::Mend,
        target: Target::The(Role::Services),
        inflict: CASED,
        undo: Some(UNCASE),
    },
];

const HUNG: Act = |site| Box::pin(unseen(site, hung(site)));
const CASED: Act = |site| Box::pin(unseen(site, cased(site)));
const UNCASE: Act = |site| Box::pin(uncase(site));

/// The build whose name is that of another but for its case.
pub const CASED_BUILD: &str = "Binder-Project-example-requirements";
/// Its repository.
const CASED_REPOSITORY: &str = "https://github.com/Binder-Project/example-requirements";

/// The build that hangs.
pub const HUNG_BUILD: &str = "binder-project-example-hung";
/// Its repository, which the stand-in for GitHub on the build host has.
pub const HUNG_REPOSITORY: &str = "http://github.com/binder-project/example-hung";
/// When it was started; a fixed moment, so that what is said of it is always the same.
pub const HUNG_SINCE: &str = "2016-06-01T08:00:00Z";

/// Starts the stand-in for GitHub unless it runs.
const GITHUB: &str = "ss -ltnH 'sport = :80' | grep -q . || \
    setsid -f node /usr/local/lib/binder-lab/github.js </dev/null >/dev/null 2>&1";
/// Succeeds when somebody listens on port `$1`.
const OPEN: &str = "ss -ltnH \"sport = :$1\" | grep .";

async fn hung(site: Site<'_>) -> Result<(), FaultError> {
    let build = site.lab.host(with_role(Role::Build).name)?;
    build.script(GITHUB, &[]).await?;
    shows(&build, "the stand-in for GitHub listens", OPEN, &["80"]).await?;
    site.lab.database("put", &[HUNG_BUILD, HUNG_REPOSITORY, HUNG_SINCE, "running"]).await?;
    let row = site.lab.database("build", &[HUNG_BUILD]).await?;
    if row["status"] == "running" {
        Ok(())
    } else {
        Err(FaultError::NothingToBreak { host: site.host.name().to_owned(), what: format!("the build is {row}") })
    }
}

async fn cased(site: Site<'_>) -> Result<(), FaultError> {
    site.lab.database("put", &[CASED_BUILD, CASED_REPOSITORY, HUNG_SINCE, "completed"]).await?;
    site.lab.database("template", &[CASED_BUILD, CASED_BUILD]).await?;
    let row = site.lab.database("build", &[CASED_BUILD]).await?;
    if row["name"] == CASED_BUILD {
        Ok(())
    } else {
        Err(FaultError::NothingToBreak { host: site.host.name().to_owned(), what: format!("the build is {row}") })
    }
}

async fn uncase(site: Site<'_>) -> Result<(), FaultError> {
    for collection in ["builds", "templates"] {
        site.lab.database("remove", &[collection, CASED_BUILD]).await?;
    }
    Ok(())
}
