//! What a drift, a task and the steps against it are about. One type with one text: the text is what the API shows and what
//! an action records; nothing reads it back into its parts.

use crate::catalogue::{Component, KUBECTL_PROXY, KUBERNETES_API};
use std::fmt;

/// What something is about. [`fmt::Display`] gives the text of `spec.subject` and `status.driftSince`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Something that pm2 runs, by its name in the catalogue or the description: `web`.
    Component(String),
    /// The kubectl proxy.
    KubectlProxy,
    /// The Kubernetes API that the host serves.
    KubernetesApi,
    /// A version of an npm module. Each version has attempts of its own.
    Module {
        /// The module's name.
        name: String,
        /// The version that is asked for.
        version: String,
    },
    /// A redirect, by where its clients connect to.
    Redirect {
        /// The interface.
        interface: String,
        /// The port.
        from: u16,
    },
    /// A file system, by the described path.
    Disk(String),
    /// Docker itself.
    Docker,
    /// The login files of Docker's client.
    DockerConfig,
    /// The clean-up of Docker.
    DockerReclaim,
    /// The schedule of the clean-up of Docker.
    ReclaimSchedule,
    /// The scheduled backup of the database.
    Backup,
    /// A backup that an edit of the database waits for. Its attempts are counted apart.
    BackupBeforeAnEdit,
    /// A build, by its name as a person can be shown it.
    Build(String),
    /// The name of a build.
    BuildName(String),
    /// The name of a template.
    TemplateName(String),
    /// A described port of another machine, as [`crate::seen::reach::subject`] speaks of it.
    Reach(String),
    /// The routes of Binder's proxy.
    Routes,
    /// The API key in its Secret.
    ApiKey,
    /// The whole machine.
    Machine,
    /// The operator's login on the machine.
    Login,
}

impl Subject {
    /// The subject of a name as `after` and `needs` of the catalogue use it.
    pub fn named(name: &str) -> Self {
        match name {
            KUBECTL_PROXY => Self::KubectlProxy,
            KUBERNETES_API => Self::KubernetesApi,
            name => Self::Component(name.to_owned()),
        }
    }

    /// Whether this is a component, and this one.
    pub fn is(&self, component: &Component) -> bool {
        matches!(self, Self::Component(name) if *name == component.name)
    }
}

impl From<&Component> for Subject {
    fn from(component: &Component) -> Self {
        Self::Component(component.name.clone())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Component(name) => f.write_str(name),
            Self::KubectlProxy => f.write_str(KUBECTL_PROXY),
            Self::KubernetesApi => f.write_str(KUBERNETES_API),
            Self::Module { name, version } => write!(f, "module {name}@{version}"),
            Self::Redirect { interface, from } => write!(f, "redirect {interface}:{from}"),
            Self::Disk(path) => write!(f, "disk {path}"),
            Self::Docker => f.write_str("docker"),
            Self::DockerConfig => f.write_str("docker-config"),
            Self::DockerReclaim => f.write_str("docker-reclaim"),
            Self::ReclaimSchedule => f.write_str("schedule docker-reclaim"),
            Self::Backup => f.write_str("backup"),
            Self::BackupBeforeAnEdit => f.write_str("backup before an edit"),
            Self::Build(name) => write!(f, "build {name}"),
            Self::BuildName(name) => write!(f, "name of build {name}"),
            Self::TemplateName(name) => write!(f, "name of template {name}"),
            Self::Reach(port) => f.write_str(port),
            Self::Routes => f.write_str("routes"),
            Self::ApiKey => f.write_str("api-key"),
            Self::Machine => f.write_str("machine"),
            Self::Login => f.write_str("login"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `status.driftSince`, `hasRun` and BinderActions of an earlier version hold these texts.
    #[test]
    fn each_subject_has_the_text_that_the_api_knows() {
        let of = str::to_owned;
        for (subject, text) in [
            (Subject::Component(of("web")), "web"),
            (Subject::named("web"), "web"),
            (Subject::named("kubectl-proxy"), "kubectl-proxy"),
            (Subject::KubectlProxy, "kubectl-proxy"),
            (Subject::KubernetesApi, "kubernetes-api"),
            (Subject::Module { name: of("binder-web"), version: of("1.1.18") }, "module binder-web@1.1.18"),
            (Subject::Redirect { interface: of("eth0"), from: 80 }, "redirect eth0:80"),
            (Subject::Disk(of("/var/lib/docker")), "disk /var/lib/docker"),
            (Subject::Docker, "docker"),
            (Subject::DockerConfig, "docker-config"),
            (Subject::DockerReclaim, "docker-reclaim"),
            (Subject::ReclaimSchedule, "schedule docker-reclaim"),
            (Subject::Backup, "backup"),
            (Subject::BackupBeforeAnEdit, "backup before an edit"),
            (Subject::Build(of("a-b")), "build a-b"),
            (Subject::BuildName(of("Org-Repo")), "name of build Org-Repo"),
            (Subject::TemplateName(of("Org-Repo")), "name of template Org-Repo"),
            (Subject::Reach(of("reach binder-services:9050")), "reach binder-services:9050"),
            (Subject::Routes, "routes"),
            (Subject::ApiKey, "api-key"),
            (Subject::Machine, "machine"),
            (Subject::Login, "login"),
        ] {
            assert_eq!(subject.to_string(), text);
        }
        assert_eq!(Subject::named("kubectl-proxy"), Subject::KubectlProxy);
        assert_eq!(Subject::named("kubernetes-api"), Subject::KubernetesApi);
    }
}
