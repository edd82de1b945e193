//! Every limit of the transport, in one place, so that none is forgotten: SSH libraries have all of them off.
//!
//! Knows only numbers. Which limit bounds what stands at each field.

use super::networks::Networks;
use super::room::Room;
use std::time::Duration;

/// Time and size limits for a connection and for what is done over it. [`Limits::default`] is what runs in production;
/// tests shorten single fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// To resolve the address and get a TCP connection.
    pub connect: Duration,
    /// From the TCP connection to the end of the login: greeting, key exchange, authentication. Longer than `connect`
    /// because a loaded sshd that forks and asks PAM takes seconds; shorter than sshd's `LoginGraceTime` (120 s).
    pub handshake: Duration,
    /// Bytes a machine may send before the login is done. A greeting, a key exchange and a login banner come to a few
    /// KiB; more is a flood.
    pub handshake_bytes: u64,
    /// A quiet connection is asked for a sign of life this often.
    pub keepalive: Duration,
    /// So many unanswered questions in a row end the connection.
    pub keepalive_max: usize,
    /// A connection on which nothing moves at all, not even a keepalive's answer, ends after this time. Also bounds a
    /// write to a peer that has stopped reading. Must be longer than `keepalive * (keepalive_max + 1)`, or it would
    /// end a connection that the keepalives are still judging.
    pub inactivity: Duration,
    /// To get a channel on an open connection.
    pub open_channel: Duration,
    /// One look, all its sections together. Each section has its own limit besides.
    pub look: Duration,
    /// The most a change may ask for; its own limit is cut to this.
    pub change: Duration,
    /// One HTTP request through the connection, from the open of the tunnel to the last byte of the answer.
    pub http: Duration,
    /// The largest HTTP answer that is taken in, in bytes. The largest that Binder's servers give is the list of all
    /// builds.
    pub http_bytes: usize,
    /// For the bytes of all answers at once, over all machines.
    pub room: Room,
    /// Which addresses may be dialled.
    pub networks: Networks,
    /// How long a machine may try to reach a port before the answer is [`Reach::TimedOut`](super::Reach::TimedOut).
    pub reach: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(20),
            handshake_bytes: 256 * 1024,
            keepalive: Duration::from_secs(15),
            keepalive_max: 3,
            inactivity: Duration::from_secs(90),
            open_channel: Duration::from_secs(10),
            look: Duration::from_secs(30),
            change: Duration::from_secs(60),
            http: Duration::from_secs(10),
            http_bytes: 4 * 1024 * 1024,
            room: Room::default(),
            networks: Networks::default(),
            reach: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalives_judge_a_connection_before_inactivity_does() {
        let limits = Limits::default();
        let judged = limits.keepalive * (u32::try_from(limits.keepalive_max).unwrap() + 1);
        assert!(limits.inactivity > judged);
    }
}
