//! Ports that nobody uses, on this computer.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{SystemTime, UNIX_EPOCH};

/// Ports from here on are tried. Below Linux's own range for outgoing connections (32768 and up), so that nothing takes
/// a chosen port by chance before its server listens.
const FIRST: u16 = 20_000;

/// And up to here, exclusive.
const END: u16 = 32_000;

/// Picks free ports on the loopback address. Starts at a place of its own each time, so two labs that start together
/// choose from different ends.
pub(crate) fn free<const N: usize>() -> io::Result<[u16; N]> {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let span = u32::from(END - FIRST);
    let begin = (nanos ^ std::process::id().wrapping_mul(2_654_435_761)) % span; // Knuth's multiplicative hash
    let mut found = [0; N];
    let mut held = Vec::with_capacity(N); // each until all are found, so none is found twice
    for step in 0..span {
        let Some(slot) = found.get_mut(held.len()) else { return Ok(found) };
        let port = u16::try_from((begin + step) % span).unwrap_or_default() + FIRST;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            *slot = port;
            held.push(listener);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("not {N} free ports between {FIRST} and {END}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn are_different_and_free() {
        let ports: [u16; 4] = free().unwrap();
        let listeners: Vec<_> = ports.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap()).into();
        assert_eq!(listeners.len(), 4);
    }
}
