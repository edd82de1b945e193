//! What happens to the world, played: machines break, networks part, owners edit, operators die.

use crate::api::{Kind, text};
use crate::case::{End, Event};
use crate::machine::Power;
use crate::outside::boots;
use crate::owner::Owner;
use crate::run::Operators;
use crate::state::{Cut, NAMESPACE, Sim};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// As long the operator may take to end when it is told to.
const LAST_WORDS: Duration = Duration::from_secs(8);

/// Plays a case's events, in order.
pub async fn play(sim: Arc<Sim>, operators: Arc<Operators>, mut owner: Owner) {
    let events = sim.lock().case.events.clone();
    for (at, event) in events {
        sleep(Duration::from_secs(at).saturating_sub(sim.now())).await;
        {
            let now = sim.now();
            let mut state = sim.lock();
            state.note(now, || format!("event: {event:?}"));
            let name = format!("{event:?}");
            let name = name.split(['(', ' ']).next().unwrap_or_default().to_owned();
            state.coverage.fault(&name);
        }
        happens(&sim, &operators, &mut owner, event).await;
        sim.changed.notify_waiters();
    }
}

async fn happens(sim: &Arc<Sim>, operators: &Arc<Operators>, owner: &mut Owner, event: Event) {
    let now = sim.now();
    let seconds = Duration::from_secs;
    let cut = |one, other, lasts: u64| {
        sim.lock().cuts.push(Cut { one, other, since: now, until: now + seconds(lasts) });
    };
    match event {
        Event::Breaks(..)
        | Event::Mended(_)
        | Event::Hangs(_)
        | Event::Freezes(_)
        | Event::Thaws(_)
        | Event::Off(_)
        | Event::On(_)
        | Event::Reboots(_)
        | Event::Replaced(_)
        | Event::Refuses(..)
        | Event::MachineClock(..) => machine(sim, event, now),
        Event::Parted(one, other, lasts) => cut(one, Some(other), lasts),
        Event::Alone(at, lasts) => cut(End::Machine(at), None, lasts),
        Event::NoWayOut(lasts) => cut(End::Operator, None, lasts),
        Event::FleetMode(mode) => {
            owner.fleet_mode(mode);
            owner.applies(&mut sim.lock());
        }
        Event::FleetSuspended(suspended) => {
            owner.fleet_suspended(suspended);
            owner.applies(&mut sim.lock());
        }
        Event::MemberMode(at, mode) => {
            owner.member_mode(at, mode);
            owner.applies(&mut sim.lock());
        }
        Event::MemberSuspended(at, suspended) => {
            owner.member(at, |member| member.suspend = suspended);
            owner.applies(&mut sim.lock());
        }
        Event::MemberListed(at, listed) => {
            owner.member_listed(at, listed);
            owner.applies(&mut sim.lock());
        }
        Event::Renamed(at) => {
            owner.member(at, |member| member.name = format!("{}-b", member.name.0).as_str().into());
            owner.applies(&mut sim.lock());
        }
        Event::HostDeleted(at) => {
            let mut state = sim.lock();
            let address = state.machines[at].address.clone();
            let host = state.store.all(Kind::Host).find(|host| host["spec"]["address"] == address.as_str());
            if let Some(name) = host.and_then(|host| text(host, &["metadata", "name"])).map(str::to_owned) {
                let _ = state.store.delete(&(Kind::Host, NAMESPACE.to_owned(), name), None);
            }
        }
        Event::ActionDeleted(at) => {
            let mut state = sim.lock();
            let address = state.machines[at].address.clone();
            let host = state.store.all(Kind::Host).find(|host| host["spec"]["address"] == address.as_str());
            let Some(uid) = host.and_then(|host| text(host, &["metadata", "uid"])).map(str::to_owned) else { return };
            let newest = state.store.all(Kind::Action).filter(|action| action["spec"]["hostUid"] == uid.as_str());
            let newest =
                newest.max_by_key(|action| text(action, &["metadata", "creationTimestamp"]).map(str::to_owned));
            if let Some(name) = newest.and_then(|action| text(action, &["metadata", "name"])).map(str::to_owned) {
                let _ = state.store.delete(&(Kind::Action, NAMESPACE.to_owned(), name), None);
                state.judge.records_gone(&uid);
            }
        }
        Event::FleetDeleted(after) => {
            owner.wants_fleet(false);
            owner.applies(&mut sim.lock());
            sim.changed.notify_waiters();
            sleep(seconds(after)).await;
            owner.wants_fleet(true);
            owner.applies(&mut sim.lock());
        }
        Event::Killed(after) => operators.kill_all(sim, seconds(after)),
        Event::Rolled => {
            let old = operators.tell_to_end();
            operators.start(sim);
            let (sim, operators) = (Arc::clone(sim), Arc::clone(operators));
            tokio::spawn(async move {
                sleep(LAST_WORDS).await;
                old.into_iter().for_each(|who| operators.kill(&sim, who));
            });
        }
        Event::Second(lasts) => {
            let who = operators.start(sim);
            let (sim, operators) = (Arc::clone(sim), Arc::clone(operators));
            tokio::spawn(async move {
                sleep(seconds(lasts)).await;
                operators.kill(&sim, who);
            });
        }
        Event::Clock(jump) => {
            let mut state = sim.lock();
            state.skew += jump;
            state.judge.clock_jumped();
        }
        Event::ApiSlow(lasts) => sim.lock().api_slow = now + seconds(lasts),
        Event::Compacted => sim.lock().store.compact(),
        Event::Restored(ago) => restored(sim, now.saturating_sub(seconds(ago))),
    }
}

/// Something happens to a machine.
fn machine(sim: &Arc<Sim>, event: Event, now: Duration) {
    let mut state = sim.lock();
    let mut of = |at: usize, change: &mut dyn FnMut(&mut crate::machine::Machine)| {
        let there = &mut state.machines[at];
        there.sync(now);
        change(there);
        there.weigh(now);
    };
    match event {
        Event::Breaks(at, what) => of(at, &mut |there| there.breaks(what)),
        Event::Mended(at) => of(at, &mut |there| {
            if there.power == Power::On {
                there.mend();
            }
        }),
        Event::Hangs(at) => of(at, &mut |there| {
            if there.power == Power::On {
                there.power = Power::Hung(now);
            }
        }),
        Event::Freezes(at) => of(at, &mut |there| {
            if there.power == Power::On {
                there.power = Power::Frozen(now);
            }
        }),
        Event::Thaws(at) => of(at, &mut |there| {
            if matches!(there.power, Power::Hung(_) | Power::Frozen(_)) {
                there.power = Power::On;
            }
        }),
        Event::Off(at) => of(at, &mut |there| there.power = Power::Off(now)),
        Event::On(at) => {
            let off = matches!(state.machines[at].power, Power::Off(_));
            drop(state);
            if off {
                boots(sim, at);
            }
        }
        Event::Reboots(at) => {
            let on = state.machines[at].power == Power::On;
            drop(state);
            if on {
                boots(sim, at);
            }
        }
        Event::Replaced(at) => of(at, &mut |there| there.key = 1),
        Event::Refuses(at, refuses) => of(at, &mut |there| there.refuses = refuses),
        Event::MachineClock(at, off) => of(at, &mut |there| there.world.clock_off = off),
        _ => {}
    }
}

/// etcd is as it was; versions go on, and whoever watches must list again.
fn restored(sim: &Sim, then: Duration) {
    let mut state = sim.lock();
    let Some((_, old)) = state.backups.iter().rev().find(|(at, _)| *at <= then).cloned() else { return };
    let version = state.store.version + 1000;
    state.store = old;
    state.store.version = version;
    state.store.compact();
    state.judge.records_gone("");
}
