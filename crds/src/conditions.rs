//! The types and reasons of conditions, as constants: the words that people search the documentation for and that
//! pipelines gate on. `docs/conditions.md` explains each.
//!
//! Every status starts with `observedGeneration: -1`, and `Ready`, `Healthy` and `RemediationAllowed` are always present;
//! `Reconciling` and `Stalled` are there only while they are true (the kstatus convention).

/// The spec was taken in and is acted on. What a pipeline waits for.
pub const READY: &str = "Ready";
/// The machine is as described.
pub const HEALTHY: &str = "Healthy";
/// A step that changes the host would be allowed now.
pub const REMEDIATION_ALLOWED: &str = "RemediationAllowed";
/// Present while a remedy is under way or due. kstatus reads it as "in progress".
pub const RECONCILING: &str = "Reconciling";
/// Present while nothing more will be tried without a person. kstatus reads it as "failed".
pub const STALLED: &str = "Stalled";

/// Present while the fleet's brake holds: no step that disrupts a service or a host is done anywhere in the fleet.
pub const REMEDIATION_HELD: &str = "RemediationHeld";
/// Of a host, present and False while its clock and the operator's are too far apart.
pub const CLOCK_IN_SYNC: &str = "ClockInSync";
/// Of a fleet with windows: each of them can open.
pub const WINDOWS_VALID: &str = "WindowsValid";

/// The host answers over SSH with its pinned key and lets us in.
pub const REACHABLE: &str = "Reachable";
/// Present while a host is silent and its cloud knows the instance by no address that is described: nothing is done to it.
pub const INSTANCE_MISMATCH: &str = "InstanceMismatch";
/// Facet `services`: pm2 runs what is described.
pub const SERVICES_RUNNING: &str = "ServicesRunning";
/// Facet `stopped`: nothing runs of what is described as stopped.
pub const SERVICES_STOPPED: &str = "ServicesStopped";
/// Facet `modules`: each npm module has the version that is asked for, and runs in it.
pub const MODULES_AT_VERSION: &str = "ModulesAtVersion";
/// Facet `kubectl_proxy`: the port is served by the right kubectl for the right cluster.
pub const PROXY_SERVING: &str = "ProxyServing";
/// Facet `port_redirects`: each redirect is there exactly once.
pub const REDIRECT_IN_PLACE: &str = "RedirectInPlace";
/// Facet `disks`: every file system is below its threshold.
pub const DISK_BELOW_THRESHOLD: &str = "DiskBelowThreshold";
/// Facet `endpoints`: every described port of another machine can be reached from this one.
pub const ENDPOINTS_REACHABLE: &str = "EndpointsReachable";
/// Facet `api_keys`: every server takes the Secret's API key.
pub const API_KEY_ACCEPTED: &str = "ApiKeyAccepted";
/// Facet `health_status`: what `/health/` says is recent, and is so.
pub const HEALTH_STATUS_CURRENT: &str = "HealthStatusCurrent";
/// Facet `proxy_routes`: Binder's proxy holds no route to an app that is gone.
pub const ROUTES_LIVE: &str = "RoutesLive";
/// Facet `kubernetes_api`: the API answers, in time, with enough nodes Ready.
pub const KUBERNETES_API_ANSWERING: &str = "KubernetesApiAnswering";
/// Facet `docker`: it answers, and its clean-up is done when it is due.
pub const DOCKER_READY: &str = "DockerReady";

/// Facet `builds`: no build has been running for longer than a build takes, and each that had is built again.
pub const BUILDS_ADVANCING: &str = "BuildsAdvancing";
/// Facet `names`: no two builds or templates differ by case alone, and all can be launched.
pub const NAMES_USABLE: &str = "NamesUsable";
/// Facet `backups`: the database is backed up by its schedule, and before it is edited.
pub const BACKED_UP: &str = "BackedUp";
