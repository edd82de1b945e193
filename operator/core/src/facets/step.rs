//! The steps of the runbook that this version knows, as data: recorded in a `BinderAction` before they are done, turned
//! into commands by `execute`, judged by looking again.

use super::Disruption;
use crate::catalogue::Place;
use crate::catalogue::Start;
use crate::seen::routes::AppId;
use binder_crds::text::{HostPath, ModuleName, ModuleVersion};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a machine may take from a restart until it answers again: a cloud instance needs one to three minutes.
pub const BOOTS_WITHIN: Duration = Duration::from_secs(300);

/// One step of the runbook. Every value in it is typed and goes to a host as an argument of its own, never as shell text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Start a component.
    StartProcess {
        /// The component's name.
        component: String,
        /// How it is started.
        start: Start,
        /// A folder to put first on the `PATH`: where the right `kubectl.sh` lies.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// Stop a component that must not run, as the runbook does before its entries are deleted.
    StopProcess {
        /// The component's name.
        component: String,
        /// Its name in pm2's table.
        process: String,
        /// Whether it is a service and not a server.
        service: bool,
    },
    /// Delete a component's entries from pm2's table, which also ends them.
    DeleteEntries {
        /// The component's name.
        component: String,
        /// The names in pm2's table.
        processes: Vec<String>,
    },
    /// End a process that pm2 has lost.
    EndOrphan {
        /// The component's name.
        component: String,
        /// The process.
        orphan: ProcessId,
    },
    /// Start the kubectl proxy.
    StartKubectlProxy {
        /// The port.
        port: u16,
        /// The kubectl's whole path.
        kubectl: String,
    },
    /// End what serves the proxy's port wrongly.
    EndKubectlProxy {
        /// The port.
        port: u16,
        /// The process.
        process: ProcessId,
    },
    /// Insert a redirect that is missing.
    InsertRedirect {
        /// The interface.
        interface: String,
        /// The port that clients connect to.
        from: u16,
        /// The local port that gets them.
        to: u16,
    },
    /// Restart the machine from inside.
    Reboot {
        /// The boot that is to end: another one is left alone.
        boot_id: String,
    },
    /// Add the public half of our login key to the instance's SSH keys.
    AuthorizeKey {
        /// The login.
        user: String,
        /// The public key, as a line of `authorized_keys`.
        public_key: String,
    },
    /// Put the API key that the servers' logs agree on into the Secret that lacks it. The key itself is in no step.
    WriteApiKey {
        /// The Secret's name.
        secret: String,
        /// The entry.
        entry: String,
    },
    /// Reset the instance of a node that is not Ready, or start it if it is off. Instances are named as their nodes.
    RestartNode {
        /// The node's name.
        node: String,
    },
    /// Reset the machine's instance in its cloud.
    PowerCycle {
        /// The boot that was last seen, if the machine was ever seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot_id: Option<String>,
    },
    /// Start the machine's instance, which its cloud says is off.
    PowerOn {
        /// The boot that was last seen, if the machine was ever seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot_id: Option<String>,
    },
    /// Delete stale routes from Binder's proxy.
    DeleteRoutes {
        /// The apps whose routes they are; exactly these.
        routes: Vec<AppId>,
        /// The kubectl proxy's port, through which the cluster is asked about each of them once more.
        port: u16,
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
    /// Remove containers that have stopped.
    RemoveContainers {
        /// Which.
        containers: Vec<StoppedContainer>,
    },
    /// Remove images that nothing uses.
    RemoveImages {
        /// Which.
        images: Vec<UnusedImage>,
    },
    /// Empty apt's cache of packages: room on a disk so full that Docker cannot start.
    EmptyPackageCache,
    /// Delete files of Docker's client that are empty.
    DeleteEmptyDockerConfig {
        /// Where they are.
        paths: Vec<String>,
    },
    /// Restart Docker.
    RestartDocker,
    /// Set a build to `failed`, if it still is the running one that was seen.
    FailBuild {
        /// The database.
        place: Place,
        /// The build's name.
        name: String,
        /// When it was started, as the database says.
        started: Timestamp,
    },
    /// Have the build server build a repository again.
    RebuildBuild {
        /// The name that the build has and will have.
        name: String,
        /// The repository.
        repository: String,
    },
    /// Set a completed build of which nothing can be launched to `failed`, with the reason.
    FailUnusableBuild {
        /// The database.
        place: Place,
        /// The build's name.
        name: String,
    },
    /// Install the version of a module that is asked for, in place of another.
    InstallModule {
        /// The module, as it was and as it will be.
        change: ModuleChange,
    },
    /// Install the version of a module again that was there before, since what uses it does not come up with the new one.
    RevertModule {
        /// The module, as it was and as it will be.
        change: ModuleChange,
    },
    /// Back the database up.
    BackUp {
        /// The database.
        place: Place,
        /// The name of the last good backup before this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<String>,
    },
}

/// A module that is to change, with everything that it takes to change it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleChange {
    /// Its name.
    pub module: ModuleName,
    /// The folder that holds it, or npm's prefix.
    pub place: HostPath,
    /// Whether it is one of npm's global modules.
    pub global: bool,
    /// The version that was there.
    pub from: ModuleVersion,
    /// The version to install.
    pub to: ModuleVersion,
    /// Whether npm runs the module's install scripts.
    pub scripts: bool,
}

impl ModuleChange {
    /// What npm is asked to install, `NAME@VERSION`; also how its process is known.
    pub fn asked(&self) -> String {
        format!("{}@{}", self.module, self.to)
    }

    /// The change back.
    pub fn back(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone(), ..self.clone() }
    }
}

/// A container, and when it ended: one that ran again meanwhile has another time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoppedContainer {
    /// Its id.
    pub id: String,
    /// When it ended, as Docker writes it.
    pub finished: String,
}

/// An image, and when it got its name: one that was named anew meanwhile has another time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnusedImage {
    /// Its id.
    pub id: String,
    /// When it got its name, as Docker writes it.
    pub tagged: String,
}

/// What tells a process from any other: a process id alone is used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started_ticks: u64,
    /// A part of its command line.
    pub signature: String,
}

impl Step {
    /// The kind of step, as the API says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::StartProcess { .. } => "StartProcess",
            Self::StopProcess { .. } => "StopProcess",
            Self::DeleteEntries { .. } => "DeleteEntries",
            Self::EndOrphan { .. } => "EndOrphan",
            Self::StartKubectlProxy { .. } => "StartKubectlProxy",
            Self::EndKubectlProxy { .. } => "EndKubectlProxy",
            Self::InsertRedirect { .. } => "InsertRedirect",
            Self::DeleteRoutes { .. } => "DeleteRoutes",
            Self::DeleteExtraRedirects { .. } => "DeleteExtraRedirects",
            Self::AuthorizeKey { .. } => "AuthorizeKey",
            Self::WriteApiKey { .. } => "WriteApiKey",
            Self::RestartNode { .. } => "RestartNode",
            Self::Reboot { .. } => "Reboot",
            Self::PowerCycle { .. } => "PowerCycle",
            Self::PowerOn { .. } => "PowerOn",
            Self::RemoveContainers { .. } => "RemoveContainers",
            Self::RemoveImages { .. } => "RemoveImages",
            Self::EmptyPackageCache => "EmptyPackageCache",
            Self::DeleteEmptyDockerConfig { .. } => "DeleteEmptyDockerConfig",
            Self::RestartDocker => "RestartDocker",
            Self::FailBuild { .. } => "FailBuild",
            Self::RebuildBuild { .. } => "RebuildBuild",
            Self::FailUnusableBuild { .. } => "FailUnusableBuild",
            Self::InstallModule { .. } => "InstallModule",
            Self::RevertModule { .. } => "RevertModule",
            Self::BackUp { .. } => "BackUp",
        }
    }

    /// The step in the runbook's words.
    pub fn words(&self) -> String {
        match self {
            Self::StartProcess { component, start: Start::Service { .. }, .. } => {
                format!("start the service {component}")
            }
            Self::StartProcess { component, .. } => format!("start {component}"),
            Self::StopProcess { component, service: true, .. } => format!("stop the service {component}"),
            Self::StopProcess { component, .. } => format!("stop {component}"),
            Self::DeleteEntries { component, processes } if processes.len() > 1 => {
                format!("delete {component} and its children from pm2")
            }
            Self::DeleteEntries { component, .. } => format!("delete {component} from pm2"),
            Self::EndOrphan { component, orphan } => format!("end the {component} that pm2 lost (pid {})", orphan.pid),
            Self::StartKubectlProxy { port, .. } => format!("start the kubectl proxy on {port}"),
            Self::EndKubectlProxy { port, process } => {
                format!("end the wrong kubectl proxy on {port} (pid {})", process.pid)
            }
            Self::DeleteRoutes { routes, .. } if routes.len() == 1 => "delete 1 stale route".to_owned(),
            Self::DeleteRoutes { routes, .. } => format!("delete {} stale routes", routes.len()),
            Self::InsertRedirect { interface, from, to } => format!("insert the redirect {interface} {from} -> {to}"),
            Self::DeleteExtraRedirects { interface, from, to } => {
                format!("delete the redirect {interface} {from} -> {to} until it is there once")
            }
            Self::AuthorizeKey { user, .. } => {
                format!("add the operator's public key to the instance's SSH keys, for {user}")
            }
            Self::WriteApiKey { secret, .. } => {
                format!("put the API key from the servers' logs into the Secret {secret}")
            }
            Self::RestartNode { node } => format!("restart the instance of the node {node}"),
            Self::Reboot { .. } => "reboot the machine".to_owned(),
            Self::PowerCycle { .. } => "power-cycle the machine".to_owned(),
            Self::PowerOn { .. } => "start the machine's instance, which is off".to_owned(),
            Self::RemoveContainers { containers } => match containers.len() {
                1 => "remove a stopped container".to_owned(),
                many => format!("remove {many} stopped containers"),
            },
            Self::RemoveImages { images } => match images.len() {
                1 => "remove an image in no use".to_owned(),
                many => format!("remove {many} images in no use"),
            },
            Self::EmptyPackageCache => "empty apt's package cache".to_owned(),
            Self::DeleteEmptyDockerConfig { paths } => format!("delete the empty {}", paths.join(" and ")),
            Self::RestartDocker => "restart Docker".to_owned(),
            Self::FailBuild { name, .. } => format!("set the hung build {name} to failed"),
            Self::RebuildBuild { name, .. } => format!("have {name} built again"),
            Self::FailUnusableBuild { name, .. } => {
                format!("set the build {name}, which cannot be launched, to failed")
            }
            Self::InstallModule { change } => format!("install {} {}", change.module, change.to),
            Self::RevertModule { change } => format!("install {} {} again", change.module, change.to),
            Self::BackUp { .. } => "back up the database".to_owned(),
        }
    }

    /// What the step costs.
    pub fn disruption(&self) -> Disruption {
        match self {
            Self::StartProcess { .. }
            | Self::StartKubectlProxy { .. }
            | Self::InsertRedirect { .. }
            | Self::DeleteRoutes { .. }
            | Self::DeleteExtraRedirects { .. }
            | Self::AuthorizeKey { .. }
            | Self::WriteApiKey { .. }
            | Self::RemoveContainers { .. }
            | Self::RemoveImages { .. }
            | Self::EmptyPackageCache
            | Self::DeleteEmptyDockerConfig { .. }
            | Self::FailBuild { .. }
            | Self::RebuildBuild { .. }
            | Self::FailUnusableBuild { .. }
            | Self::BackUp { .. } => Disruption::None,
            Self::StopProcess { .. }
            | Self::DeleteEntries { .. }
            | Self::EndOrphan { .. }
            | Self::EndKubectlProxy { .. }
            | Self::InstallModule { .. }
            | Self::RevertModule { .. }
            | Self::RestartDocker => Disruption::Service,
            Self::Reboot { .. } | Self::PowerCycle { .. } | Self::PowerOn { .. } | Self::RestartNode { .. } => {
                Disruption::Host
            }
        }
    }

    /// Whether only so many hosts of a fleet may be in it at once, and only in a window: what disrupts a whole host, and a
    /// new version of a module, which must prove itself on one host before the next one gets it. Going back to the old
    /// version waits for nobody.
    pub fn takes_turns(&self) -> bool {
        self.disruption() == Disruption::Host || matches!(self, Self::InstallModule { .. })
    }

    /// Into how many steps of this kind the whole work may be cut: so many successful ones count as one attempt. 1 for
    /// whatever is done at once.
    pub fn parts(&self) -> u32 {
        match self {
            Self::RemoveContainers { .. } | Self::RemoveImages { .. } => 10,
            _ => 1,
        }
    }

    /// How many attempts an incident has for it, where that is not the fleet's number. What disrupts a whole host is done
    /// once: if it did not help, doing it again will not, and a person must look.
    pub fn attempts(&self) -> Option<u32> {
        (self.disruption() == Disruption::Host).then_some(1)
    }

    /// Whether its attempts count anew once a module was changed: what a server did with the other version says nothing of
    /// what it will do with this one.
    pub fn depends_on_modules(&self) -> bool {
        matches!(self, Self::StartProcess { .. } | Self::DeleteEntries { .. } | Self::EndOrphan { .. })
    }

    /// What it does to a module.
    pub fn changes_module(&self) -> Option<&ModuleChange> {
        match self {
            Self::InstallModule { change } | Self::RevertModule { change } => Some(change),
            _ => None,
        }
    }

    /// Whether its purpose is that the host can be looked at again: then not being able to is its failure.
    pub fn is_for_the_way_in(&self) -> bool {
        matches!(self, Self::Reboot { .. } | Self::PowerCycle { .. } | Self::PowerOn { .. } | Self::AuthorizeKey { .. })
    }

    /// The boot during which it was decided, for a step that is to end it.
    pub fn ends_boot(&self) -> Option<Option<&str>> {
        match self {
            Self::Reboot { boot_id } => Some(Some(boot_id)),
            Self::PowerCycle { boot_id } | Self::PowerOn { boot_id } => Some(boot_id.as_deref()),
            _ => None,
        }
    }

    /// Whether the machine's cloud does it.
    pub fn needs_power(&self) -> bool {
        matches!(
            self,
            Self::PowerCycle { .. } | Self::PowerOn { .. } | Self::AuthorizeKey { .. } | Self::RestartNode { .. }
        )
    }

    /// Whether an attempt at another step counts as one at this: for what is done to a whole machine, whatever it was
    /// about, the same machine.
    pub fn same_machine(&self, other: &Step) -> bool {
        match (self, other) {
            (Self::RestartNode { node }, Self::RestartNode { node: other }) => node == other,
            _ => self.kind() == other.kind(),
        }
    }

    /// Whether the command reads the API key.
    pub fn needs_api_key(&self) -> bool {
        matches!(self, Self::StartProcess { start: Start::Server { .. }, .. } | Self::WriteApiKey { .. })
            || self.goes_to_build_server()
    }

    /// Whether the step is done on the host with the build server, whichever host it is about.
    pub fn goes_to_build_server(&self) -> bool {
        matches!(self, Self::RebuildBuild { .. })
    }
}
