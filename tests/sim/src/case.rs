//! A case: everything that one run hangs on, as data. Drawn from a seed, or written down when a seed has failed.
//!
//! What happens to the world is a list with times; what happens to single calls is drawn for each call by its name, or is a
//! list by those names. Both lists can be made shorter without moving what stays.

use crate::rng::Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a machine of the fleet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Binder's web and deploy server, with kubectl proxy and redirect.
    Web,
    /// The database.
    Services,
    /// Docker and its disk.
    Build,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The seed: latencies, and whatever no list says.
    pub seed: u64,
    /// The machines.
    pub roles: Vec<Role>,
    /// `remedies.unreachableTimeout`, in seconds.
    pub unreachable_timeout: u64,
    /// `remedies.perDay`.
    pub per_day: u32,
    /// `remedies.attempts`.
    pub attempts: u32,
    /// Whether the fleet may start instances that are off.
    pub may_start: bool,
    /// The fleet's mode in the beginning: Observe (0), Approve, Enforce.
    pub mode: u8,
    /// The mode of each member in the beginning.
    pub modes: Vec<u8>,
    /// For how many seconds things happen before the calm.
    pub busy: u64,
    /// What happens to the world, and when, in seconds since its beginning.
    pub events: Vec<(u64, Event)>,
    /// What happens to calls.
    pub faults: Faults,
}

/// What happens to calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Faults {
    /// Each call has its chance, so many in a million.
    Drawn(u64),
    /// These calls, by their names.
    Listed(BTreeMap<String, Fault>),
}

/// What can happen to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// The request never arrives, and that is noticed.
    LostRequest,
    /// It is done, and the answer never arrives.
    LostAnswer,
    /// 409, nothing is done.
    Conflict,
    /// 429, nothing is done.
    TooMany,
    /// 500, nothing is done.
    Broken,
    /// It is done, and answered with 500.
    BrokenAfter,
    /// It is done twice, and the second answer arrives.
    Doubled,
    /// It takes seconds.
    Slow,
    /// Nothing comes back until the caller's own limit.
    Hang,
    /// A watch ends early.
    Cut,
    /// A watch tells nothing for a while.
    Stall,
    /// A watch's version is compacted.
    Expired,
    /// The operator is killed before the call is done.
    KillBefore,
    /// The operator is killed when the call is done, before its answer.
    KillAfter,
    /// Parts of a look run out of time.
    Unknown,
    /// A command has not run, and says that it failed.
    Refused,
    /// A command runs long after its caller has given it up.
    Late,
}

/// An end of a network path: an operator's process, or a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum End {
    /// Whichever operator.
    Operator,
    /// A machine, by its place in the fleet.
    Machine(usize),
    /// The cloud's API.
    Cloud,
}

/// What breaks on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Break {
    /// pm2 ends a component and forgets it.
    Deleted(u8),
    /// pm2 forgets a component, which runs on.
    Lost(u8),
    /// A component's process ends, and pm2 says so.
    Stopped(u8),
    /// A component's child is there twice.
    Doubled(u8),
    /// The kubectl proxy ends.
    Proxy,
    /// The redirect is there so often.
    Redirects(u8),
    /// The disk is so full, in per cent.
    Disk(u8),
    /// Docker does not answer.
    Docker,
    /// The health checker stops going its rounds.
    Checker,
    /// A component cannot be started any more.
    Unstartable(u8),
    /// Commands do nothing.
    Deaf,
    /// Somebody else's process takes a component's port.
    Taken(u8),
}

/// What happens to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Event {
    /// Something breaks on a machine.
    Breaks(usize, Break),
    /// A person mends everything on a machine by hand.
    Mended(usize),
    /// A machine's kernel hangs: nothing of it answers.
    Hangs(usize),
    /// A machine takes connections and says nothing.
    Freezes(usize),
    /// A machine that hangs goes on by itself.
    Thaws(usize),
    /// A machine is switched off.
    Off(usize),
    /// Its owner switches it on again.
    On(usize),
    /// Its owner reboots it.
    Reboots(usize),
    /// It comes back as another machine, with another host key.
    Replaced(usize),
    /// It refuses the operator's login, or takes it again.
    Refuses(usize, bool),
    /// Its clock is off by so many seconds.
    MachineClock(usize, i64),
    /// Nothing gets from one end to another, for so many seconds.
    Parted(End, End, u64),
    /// A machine is cut off from everybody, for so many seconds.
    Alone(usize, u64),
    /// Nothing of the operator's gets out to any machine or cloud, for so many seconds.
    NoWayOut(u64),
    /// The owner sets the fleet's mode: Observe (0), Approve, Enforce.
    FleetMode(u8),
    /// The owner suspends the fleet, or goes on.
    FleetSuspended(bool),
    /// The owner sets one member's mode.
    MemberMode(usize, u8),
    /// The owner suspends a member, or goes on.
    MemberSuspended(usize, bool),
    /// The owner takes a member out of the fleet's list, or puts it back.
    MemberListed(usize, bool),
    /// The owner gives a member another name.
    Renamed(usize),
    /// Somebody deletes a host's object.
    HostDeleted(usize),
    /// Somebody deletes the newest action of a host.
    ActionDeleted(usize),
    /// The owner deletes the fleet, and applies it again after so many seconds.
    FleetDeleted(u64),
    /// The operator is killed, and started again after so many seconds.
    Killed(u64),
    /// The operator is told to end, and another is started at once.
    Rolled,
    /// A second operator runs beside the first for so many seconds.
    Second(u64),
    /// The operators' clock jumps by so many seconds.
    Clock(i64),
    /// The API server takes seconds for each call, for so many seconds.
    ApiSlow(u64),
    /// All versions are compacted.
    Compacted,
    /// etcd is restored from how it was so many seconds ago.
    Restored(u64),
}

/// How much chance there is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The most machines of a fleet.
    pub hosts: u64,
    /// For how many seconds things happen.
    pub busy: u64,
    /// The most events.
    pub events: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { hosts: 3, busy: 420, events: 7 }
    }
}

impl Case {
    /// The case of a seed.
    pub fn drawn(seed: u64, shape: Shape) -> Self {
        let mut rng = Rng::named(seed, "case");
        let hosts = usize::try_from(rng.between(1, shape.hosts)).unwrap_or(1);
        let roles: Vec<Role> = (0..hosts)
            .map(|n| match n {
                0 => Role::Web,
                1 => Role::Services,
                _ => *rng.pick(&[Role::Build, Role::Web, Role::Services]),
            })
            .collect();
        let busy = rng.between(shape.busy / 3, shape.busy);
        let count = rng.between(1, shape.events);
        let mut events: Vec<(u64, Event)> =
            (0..count).map(|_| (rng.between(20, busy), event(&mut rng, hosts))).collect();
        let mut unreachable_timeout = *rng.pick(&[60, 90, 180, 300]);
        let mut busy = busy;
        if rng.percent(30) {
            let at = usize::try_from(rng.below(hosts as u64)).unwrap_or_default();
            unreachable_timeout = 60;
            let from = rng.between(20, 60);
            match rng.below(3) {
                0 => {
                    // The same machine again: once it is well for long enough, another incident begins on the same day.
                    let again = rng.between(500, 800);
                    events.extend([(from, Event::Hangs(at)), (again, Event::Hangs(at))]);
                    busy = again + 30;
                }
                // It serves, and only the operator does not reach it.
                1 => {
                    events.push((from, Event::Parted(End::Operator, End::Machine(at), 400)));
                    busy = busy.max(from + 200);
                }
                // Its owner switches it on right when it may be taken for dead.
                _ => {
                    let on = from + unreachable_timeout - rng.between(1, 20);
                    events.extend([(from, Event::Off(at)), (on, Event::On(at))]);
                    busy = busy.max(on + 60);
                }
            }
        }
        events.sort_unstable();
        let rate = *rng.pick(&[0, 1_000, 4_000, 12_000, 40_000]);
        Self {
            seed,
            unreachable_timeout,
            per_day: u32::try_from(rng.between(1, 3)).unwrap_or(1),
            attempts: u32::try_from(rng.between(2, 3)).unwrap_or(3),
            may_start: rng.percent(60),
            mode: *rng.pick(&[0, 1, 2, 2, 2, 2, 2, 2, 2, 2]),
            modes: roles.iter().map(|_| *rng.pick(&[0, 1, 2, 2, 2, 2, 2, 2, 2, 2])).collect(),
            roles,
            busy,
            events,
            faults: Faults::Drawn(rate),
        }
    }
}

fn a_break(rng: &mut Rng) -> Break {
    let which = u8::try_from(rng.below(4)).unwrap_or_default();
    match rng.below(13) {
        0 | 1 => Break::Deleted(which),
        2 => Break::Lost(which),
        3 => Break::Stopped(which),
        4 => Break::Doubled(which),
        5 => Break::Proxy,
        6 => Break::Redirects(*rng.pick(&[0, 0, 2, 3])),
        7 => Break::Disk(*rng.pick(&[50, 86, 95])),
        8 => Break::Docker,
        9 => Break::Checker,
        10 => Break::Unstartable(which),
        11 => Break::Taken(which),
        _ => Break::Deaf,
    }
}

fn event(rng: &mut Rng, hosts: usize) -> Event {
    let at = usize::try_from(rng.below(hosts as u64)).unwrap_or_default();
    let other = usize::try_from(rng.below(hosts as u64)).unwrap_or_default();
    let long = *rng.pick(&[3, 20, 70, 200, 400]);
    match rng.below(48) {
        0..=13 => Event::Breaks(at, a_break(rng)),
        14 => Event::Mended(at),
        15 | 16 => Event::Hangs(at),
        17 => Event::Freezes(at),
        18 => Event::Thaws(at),
        19 => Event::Off(at),
        20 => Event::On(at),
        21 | 22 => Event::Reboots(at),
        23 => Event::Replaced(at),
        24 => Event::Refuses(at, rng.percent(60)),
        25 => Event::MachineClock(at, *rng.pick(&[-3600, -100, 0, 100, 3600])),
        26 | 27 => Event::Parted(End::Operator, End::Machine(at), long),
        28 if at != other => Event::Parted(End::Machine(at), End::Machine(other), long),
        28 => Event::Parted(End::Operator, End::Cloud, long),
        29 => Event::Alone(at, long),
        30 => Event::NoWayOut(long),
        31 => Event::FleetMode(u8::try_from(rng.below(3)).unwrap_or_default()),
        32 => Event::FleetSuspended(rng.percent(50)),
        33 => Event::MemberMode(at, u8::try_from(rng.below(3)).unwrap_or_default()),
        34 => Event::MemberSuspended(at, rng.percent(50)),
        35 => Event::MemberListed(at, rng.percent(50)),
        36 => Event::Renamed(at),
        37 => Event::HostDeleted(at),
        38 => Event::ActionDeleted(at),
        39 => Event::FleetDeleted(rng.between(1, 60)),
        40 | 41 => Event::Killed(rng.between(1, 90)),
        42 => Event::Rolled,
        43 => Event::Second(rng.between(30, 200)),
        44 => Event::Clock(*rng.pick(&[-3600, -60, 60, 3600])),
        _ => match rng.below(4) {
            0 => Event::Compacted,
            1 | 2 => Event::ApiSlow(rng.between(30, 300)),
            _ => Event::Restored(rng.between(30, 300)),
        },
    }
}
