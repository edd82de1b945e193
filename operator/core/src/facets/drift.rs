//! What is not as described, and the table of its kinds: everything that the planner must know of a kind stands in its row.
//!
//! Pure data. Must not know what was tried, or whether anything is allowed.

use super::Subject;

/// Something that is not as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// What kind it is; also the condition's reason.
    pub kind: DriftKind,
    /// What it is about.
    pub subject: Subject,
    /// For a column: a few words.
    pub short: String,
    /// For a condition: what was seen, in a sentence without a full stop.
    pub evidence: String,
}

/// What the remedies of a drift wait for, besides what holds any step back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing: it is wrong whatever else is, and putting it right needs nothing.
    Nothing,
    /// What its subject needs: starting it now would only make it crash or give up, and what it does now says nothing about
    /// itself.
    Needs,
    /// What the users of its module need, since they will be started again; and that one host has the new version at a time.
    Update,
    /// The Kubernetes API, wherever it is served.
    Cluster,
    /// The other machine, which is not as described either.
    OtherMachine,
    /// A fresh backup of the database, where backups are described.
    Backup,
    /// The clock of the build server, by which builds are begun; then a fresh backup.
    BuildersClock,
    /// The API key, and a build server that runs and that may be asked.
    BuildServer,
}

/// What a kind of drift on many hosts at once means to the fleet's brake ([`crate::plan::brake`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMany {
    /// Nothing: an owner brings it about on all of them by one word (another version, something to be stopped, a Secret that
    /// is gone), or it is only due.
    Told,
    /// What the runbook begins to cure by a step that disrupts nothing. It is no danger by itself, and is what a power failure
    /// leaves on every host.
    Mild,
    /// A doubt in the operator's own sight.
    Grave,
}

/// A cell of the table below: the word of its column, or a dash. Anything else is no row.
#[rustfmt::skip]
macro_rules! cell {
    (-) => { Waits::Nothing };
    (needs) => { Waits::Needs };
    (update) => { Waits::Update };
    (cluster) => { Waits::Cluster };
    (machine) => { Waits::OtherMachine };
    (backup) => { Waits::Backup };
    (builder) => { Waits::BuildersClock };
    (server) => { Waits::BuildServer };
    (told) => { OnMany::Told };
    (mild) => { OnMany::Mild };
    (grave) => { OnMany::Grave };
    (reboot reboot) => { true };
    (table table) => { true };
    (down down) => { true };
    (down all) => { true };
    (all all) => { true };
    (all down) => { false };
    (aged aged) => { true };
    (version version) => { true };
    (task task) => { true };
    ($column:ident -) => { false };
}

/// Declares the kinds of drift. Each row answers every column: there is no default.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $page:literal $waits:tt $many:tt $reboot:tt $table:tt $down:tt $aged:tt $version:tt $task:tt;)*) => {
        /// Every kind of drift. The compiler lists what is to be handled when one is added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DriftKind {
            $($(#[$doc])* $kind,)*
        }

        impl DriftKind {
            /// All of them.
            pub const ALL: &'static [DriftKind] = &[$(Self::$kind,)*];

            /// The word that the API uses.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// The page under `docs/runbook/` that says what a person does about it.
            pub fn runbook(self) -> &'static str {
                match self { $(Self::$kind => $page,)* }
            }

            /// What its remedies wait for.
            pub fn waits(self) -> Waits {
                match self { $(Self::$kind => cell!($waits),)* }
            }

            /// What it means when many hosts have it at once.
            pub fn on_many(self) -> OnMany {
                match self { $(Self::$kind => cell!($many),)* }
            }

            /// Whether the runbook restarts the machine when the lighter steps against it are used up ("Web and deploy
            /// server": `sudo reboot`, then everything in order). Only for what a fresh boot clears.
            pub fn reboot_helps(self) -> bool {
                match self { $(Self::$kind => cell!(reboot $reboot),)* }
            }

            /// Whether pm2's table alone tells it, and not who listens.
            pub fn rests_on_table(self) -> bool {
                match self { $(Self::$kind => cell!(table $table),)* }
            }

            /// Whether its subject is seen not to serve. What runs in an odd way (doubled, lost by pm2, without a child) may
            /// serve.
            pub fn is_down(self) -> bool {
                match self { $(Self::$kind => cell!(down $down),)* }
            }

            /// Whether nothing of what the machine is for serves.
            pub fn is_machine_down(self) -> bool {
                match self { $(Self::$kind => cell!(all $down),)* }
            }

            /// Whether it is seen by comparing a time that was written on the host with its clock. A clock that was set
            /// meanwhile makes what is a second old look as if it were days old.
            pub fn rests_on_age(self) -> bool {
                match self { $(Self::$kind => cell!(aged $aged),)* }
            }

            /// Whether a new version of a module may have brought it about in what uses the module.
            pub fn may_come_of_version(self) -> bool {
                match self { $(Self::$kind => cell!(version $version),)* }
            }

            /// Whether it is work that is due by the clock ([`Task`](super::Task)) and no fault of the host.
            pub fn is_scheduled(self) -> bool {
                match self { $(Self::$kind => cell!(task $task),)* }
            }
        }
    };
}

// The columns: the page of the runbook; what the remedies wait for; what many hosts at once mean; whether a reboot helps; whether
// only pm2's table tells it; whether the subject is
// down, or all of the machine; whether it rests on an age; whether a new version may have brought
// it about; whether it is a task.
kinds! {
    /// pm2 does not know the process, and nothing of it runs.
    ProcessMissing       "services"        needs    mild   reboot  table  down  -     version  -;
    /// The process is stopped.
    ProcessStopped       "services"        -        grave  reboot  table  down  -     version  -;
    /// pm2 has given the process up.
    ProcessErrored       "services"        needs    grave  reboot  table  down  -     version  -;
    /// pm2 holds the process, or a child of it, more than once.
    ProcessDoubled       "services"        -        grave  reboot  table  -     -     -        -;
    /// The process is gone but children of it are left over.
    ChildrenLeftOver     "services"        -        grave  reboot  -      down  -     version  -;
    /// A child that the process needs is gone.
    ChildMissing         "services"        needs    grave  reboot  table  -     -     version  -;
    /// pm2 has lost the process, which still runs and listens.
    LostByPm2            "services"        -        grave  reboot  -      -     -     -        -;
    /// The process runs but does not listen on its port.
    NotListening         "services"        needs    grave  reboot  -      down  -     version  -;
    /// It was started before what it needs, and does not work.
    StartedTooEarly      "services"        -        grave  reboot  -      down  -     -        -;
    /// Somebody else's process has its port.
    PortTaken            "services"        -        grave  -       -      -     -     -        -;
    /// The process runs and listens, on another port than the described one.
    ListensElsewhere     "services"        -        grave  -       -      -     -     -        -;
    /// pm2 holds a process of this name that runs another program.
    AnotherProgram       "services"        -        grave  -       -      -     -     -        -;
    /// pm2 restarts the process again and again.
    RestartsClimbing     "restarts"        needs    grave  -       -      -     -     version  -;
    /// What is described as stopped still runs, or is still in pm2's table.
    StillRunning         "services"        -        told   -       -      -     -     -        -;
    /// A module is older than the version that is asked for.
    ModuleOld            "modules"         update   told   -       -      -     -     -        -;
    /// A module is newer than the version that is asked for.
    ModuleNewer          "modules"         update   told   -       -      -     -     -        -;
    /// A module is not installed.
    ModuleMissing        "modules"         -        told   -       -      -     -     -        -;
    /// A component runs since before its module was changed.
    ModuleNotLoaded      "modules"         needs    grave  -       -      -     aged  -        -;
    /// Nothing listens on the proxy's port.
    NothingListens       "kubectl-proxy"   -        mild   reboot  -      -     -     -        -;
    /// Something else than kubectl listens on the proxy's port.
    NotKubectl           "kubectl-proxy"   -        grave  -       -      -     -     -        -;
    /// Another kubectl than the described one serves the port.
    WrongKubectl         "kubectl-proxy"   -        grave  -       -      -     -     -        -;
    /// The port leads to another cluster.
    WrongCluster         "kubectl-proxy"   -        grave  -       -      -     -     -        -;
    /// The proxy runs, but no cluster answers through it.
    ClusterNotAnswering  "kubectl-proxy"   cluster  grave  -       -      -     -     -        -;
    /// The described kubectl is not there or may not be executed.
    KubectlUnusable      "kubectl-proxy"   -        grave  -       -      -     -     -        -;
    /// The redirect is not there.
    RedirectMissing      "port-redirects"  -        mild   -       -      -     -     -        -;
    /// The redirect is there more than once.
    RedirectDoubled      "port-redirects"  -        mild   -       -      -     -     -        -;
    /// An earlier rule sends the port elsewhere.
    RedirectShadowed     "port-redirects"  -        grave  -       -      -     -     -        -;
    /// The described network interface does not exist.
    InterfaceMissing     "port-redirects"  -        grave  -       -      -     -     -        -;
    /// The file system is over its threshold.
    OverThreshold        "disks"           -        mild   -       -      -     -     -        -;
    /// The described path cannot be asked about.
    DiskUnreadable       "disks"           -        grave  -       -      -     -     -        -;
    /// Nobody answers over SSH, and nobody else has seen the host alive.
    HostSilent           "hosts"           -        grave  -       -      -     -     -        -;
    /// The cloud says that the machine is off.
    HostOff              "hosts"           -        grave  -       -      -     -     -        -;
    /// The host refuses our login.
    LoginRefused         "ssh-permission"  -        mild   -       -      -     -     -        -;
    /// The other machine answers, and nothing listens on the described port.
    PortRefused          "endpoints"       machine  grave  -       -      -     -     -        -;
    /// Nothing answers on the described port of another machine.
    PortSilent           "endpoints"       machine  grave  -       -      -     -     -        -;
    /// There is no route to the other machine.
    NoRoute              "endpoints"       -        grave  -       -      -     -     -        -;
    /// The other machine's name does not resolve.
    NameNotFound         "endpoints"       -        grave  -       -      -     -     -        -;
    /// The fleet has no host of the described name.
    NoSuchHost           "endpoints"       -        told   -       -      -     -     -        -;
    /// A server answers 403 to the Secret's API key.
    KeyRefused           "api-key"         -        grave  -       -      -     -     -        -;
    /// The Secret does not have the API key.
    KeyUnknown           "api-key"         -        told   -       -      -     -     -        -;
    /// The Secret does not have the API key, and what the servers tell of it does not fit together.
    KeysDisagree         "api-key"         -        told   -       -      -     -     -        -;
    /// What `/health/` says is old.
    HealthStale          "health"          needs    grave  -       -      -     aged  -        -;
    /// `/health/` says down of what works.
    HealthWrong          "health"          needs    grave  -       -      -     aged  -        -;
    /// The Kubernetes API does not answer, or not well.
    ApiNotAnswering      "kubernetes-api"  -        grave  -       -      all   -     -        -;
    /// The Kubernetes API answers too slowly.
    ApiSlow              "kubernetes-api"  -        grave  -       -      -     -     -        -;
    /// Fewer nodes are Ready than described.
    NodesNotReady        "kubernetes-api"  -        grave  -       -      -     -     -        -;
    /// The API that the host serves is slow, and the machine has next to no memory left.
    ApiStarved           "kubernetes-api"  -        grave  -       -      all   -     -        -;
    /// The proxy holds routes to apps that are gone.
    RoutesStale          "routes"          -        mild   -       -      -     -     -        -;
    /// The proxy holds a route that no app can have.
    RouteOdd             "routes"          -        grave  -       -      -     -     -        -;
    /// A build has been running for longer than a build takes.
    HungBuild            "hung-build"      builder  mild   -       -      -     aged  -        -;
    /// A build that hung was set to failed and is owed another try.
    BuildNotRebuilt      "hung-build"      server   mild   -       -      -     -     -        -;
    /// Two names differ by case alone.
    NamesCollide         "names"           -        grave  -       -      -     -     -        -;
    /// Nothing of a name can be launched, since it is not in lower case.
    NameNotLower         "names"           backup   grave  -       -      -     -     -        -;
    /// The database is to be edited, and there is no fresh backup.
    NoFreshBackup        "backups"         -        mild   -       -      -     -     -        -;
    /// The place for backups cannot be used as it is described.
    BackupPlaceUnusable  "backups"         -        told   -       -      -     -     -        -;
    /// A backup is due by its schedule. A task.
    BackupDue            "backups"         -        told   -       -      -     -     -        task;
    /// Docker does not answer.
    DockerNotAnswering   "disks"           -        grave  -       -      -     -     -        -;
    /// A file in which Docker's client keeps logins is empty.
    DockerConfigEmpty    "disks"           -        mild   -       -      -     -     -        -;
    /// A schedule of the description can never be followed.
    ScheduleInvalid      "schedules"       -        told   -       -      -     -     -        -;
    /// The clean-up of Docker is due by its schedule. A task.
    ReclaimDue           "disks"           -        told   -       -      -     -     -        task;
}

impl DriftKind {
    /// Whether something else that is not in place explains it: then that is remedied, and this one waits.
    pub fn explained_by_dependency(self) -> bool {
        match self.waits() {
            Waits::Needs | Waits::Update | Waits::Cluster | Waits::OtherMachine => true,
            Waits::Nothing | Waits::Backup | Waits::BuildersClock | Waits::BuildServer => false,
        }
    }
}
