//! The values of a step against their rules, as those of a spec are checked: a step that comes back from a BinderAction has
//! been in the API, where others may have written it.

use super::Step;
use super::step::ModuleChange;
use binder_crds::text::{BadText, Checked, InterfaceName, ObjectName, ProcessName, UserName};

/// The longest value that a step may hold, in bytes. Paths have 255, addresses of repositories 500, public keys 800.
const LONGEST: usize = 1024;

/// A value of a step that cannot be.
fn bad(what: &'static str) -> BadText {
    BadText { what, remedy: "delete the BinderAction that holds it" }
}

/// Any other text, which is compared with what a look sees and never built into a command: bounded, and nothing that could
/// break a terminal.
fn plain(what: &'static str, text: &str) -> Result<(), BadText> {
    let fine = text.len() <= LONGEST && !text.chars().any(char::is_control);
    if fine { Ok(()) } else { Err(bad(what)) }
}

fn all_plain<'t>(what: &'static str, texts: impl IntoIterator<Item = &'t String>) -> Result<(), BadText> {
    texts.into_iter().try_for_each(|text| plain(what, text))
}

fn module(change: &ModuleChange) -> Result<(), BadText> {
    change.module.checked()?;
    change.place.checked()?;
    change.from.checked()?;
    change.to.checked()?;
    Ok(())
}

impl Step {
    /// Whether every value follows its rule.
    ///
    /// # Errors
    /// [`BadText`] for the first one that does not.
    pub fn checked(&self) -> Result<(), BadText> {
        match self {
            Self::StartProcess { component, start, path } => {
                use crate::catalogue::Start;
                plain("component", component)?;
                all_plain("path", path)?;
                match start {
                    Start::Server { name } | Start::Service { name } => plain("component", name),
                    Start::Command { argv } => all_plain("argument", argv),
                }
            }
            Self::StopProcess { component, process, .. } => {
                plain("component", component)?;
                ProcessName(process.clone()).checked().map(drop)
            }
            Self::DeleteEntries { component, processes } => {
                plain("component", component)?;
                processes.iter().try_for_each(|process| ProcessName(process.clone()).checked().map(drop))
            }
            Self::EndOrphan { component, orphan } => {
                plain("component", component)?;
                plain("signature", &orphan.signature)
            }
            Self::StartKubectlProxy { kubectl, .. } => plain("kubectl", kubectl),
            Self::EndKubectlProxy { process, .. } => plain("signature", &process.signature),
            Self::InsertRedirect { interface, .. } | Self::DeleteExtraRedirects { interface, .. } => {
                InterfaceName(interface.clone()).checked().map(drop)
            }
            Self::Reboot { boot_id } => plain("boot id", boot_id),
            Self::PowerCycle { boot_id } | Self::PowerOn { boot_id } => all_plain("boot id", boot_id),
            Self::AuthorizeKey { user, public_key } => {
                UserName(user.clone()).checked()?;
                plain("public key", public_key)
            }
            Self::WriteApiKey { secret, entry } => {
                ObjectName(secret.clone()).checked()?;
                plain("entry", entry)
            }
            Self::RestartNode { node } => plain("node", node),
            Self::RemoveContainers { containers } => containers.iter().try_for_each(|one| {
                plain("container", &one.id)?;
                plain("container", &one.finished)
            }),
            Self::RemoveImages { images } => images.iter().try_for_each(|one| {
                plain("image", &one.id)?;
                plain("image", &one.tagged)
            }),
            Self::DeleteEmptyDockerConfig { paths } => all_plain("path", paths),
            Self::FailBuild { place, name, .. } | Self::FailUnusableBuild { place, name } => {
                plain("database", &place.name)?;
                plain("build", name)
            }
            Self::RebuildBuild { name, repository } => {
                plain("build", name)?;
                plain("repository", repository)
            }
            Self::InstallModule { change } | Self::RevertModule { change } => module(change),
            Self::BackUp { place, last } => {
                plain("database", &place.name)?;
                all_plain("backup", last)
            }
            // The apps of routes are typed where they are read.
            Self::DeleteRoutes { .. } | Self::EmptyPackageCache | Self::RestartDocker => Ok(()),
        }
    }
}
