//! A socket that leads through a machine, for as long as one piece of work.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use super::fake::Machine;
use super::*;

/// A server that gives back what it gets, or never stops talking.
async fn server(endless: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if endless {
                    while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
                } else {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
            });
        }
    });
    address
}

fn to(address: SocketAddr, max_bytes: u64) -> Forwarding {
    Forwarding { host: address.ip().to_string(), port: address.port(), max_bytes, screen: None }
}

#[tokio::test]
async fn what_is_said_comes_through_and_the_port_ends_with_the_work() {
    let machine = Machine::new();
    let session = machine.connect().await;
    let work = |at: PathBuf| async move {
        for text in [b"one", b"two"] {
            let mut stream = UnixStream::connect(&at).await.unwrap();
            stream.write_all(text).await.unwrap();
            let mut back = [0; 3];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, text);
        }
        let mode = at.parent().unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "another user of this computer could use it");
        at
    };
    let at = session.forwarded(&to(server(false).await, u64::MAX), work).await.unwrap();
    assert!(UnixStream::connect(&at).await.is_err(), "somebody still listens");
    assert!(!at.parent().unwrap().exists(), "its directory stays behind");
    assert_eq!(machine.seen.commands(), [""; 0]);
}

#[tokio::test]
async fn a_server_that_never_stops_talking_is_cut_off() {
    let machine = Machine::new();
    let session = machine.connect().await;
    let work = |at: PathBuf| async move {
        let mut all = Vec::new();
        UnixStream::connect(&at).await.unwrap().read_to_end(&mut all).await.unwrap();
        all.len()
    };
    assert_eq!(session.forwarded(&to(server(true).await, 100_000), work).await.unwrap(), 100_000);
}

#[tokio::test]
async fn a_closed_port_ends_the_work_at_once() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let machine = Machine::new();
    let session = machine.connect().await;
    let work = |at: PathBuf| async move {
        let _stream = UnixStream::connect(&at).await.unwrap();
        std::future::pending::<()>().await;
    };
    let error = session.forwarded(&to(closed, 1), work).await.unwrap_err();
    assert!(matches!(error, ForwardError::NotReached { reach: Reach::Refused | Reach::Unknown(_), .. }), "{error}");
}

#[tokio::test]
async fn what_is_judged_bad_never_reaches_the_work() {
    let machine = Machine::new();
    let session = machine.connect().await;
    // Messages of three bytes, of which one begins with another letter.
    let screen: Screen = |come| match come.first() {
        Some(b'x') => Err("it says x".to_owned()),
        _ => Ok((come.len() >= 3).then_some(3)),
    };
    let work = |at: PathBuf| async move {
        let mut stream = UnixStream::connect(&at).await.unwrap();
        stream.write_all(b"one").await.unwrap();
        let mut back = [0; 3];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"one");
        stream.write_all(b"xyz").await.unwrap();
        stream.read_exact(&mut back).await.unwrap();
        panic!("it came through: {back:?}");
    };
    let to = Forwarding { screen: Some(screen), ..to(server(false).await, u64::MAX) };
    let error = session.forwarded(&to, |at| async move { work(at).await }).await;
    assert!(matches!(error, Err(ForwardError::Refused { ref why, .. }) if why == "it says x"), "{error:?}");
}
