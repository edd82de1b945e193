//! HTTP and reach through a machine, to servers on this one's loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::http::header::AUTHORIZATION;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::fake::Machine;
use super::*;

/// A server that reads a request's head, answers with these bytes, and goes on with `filler` if there is any. Gives
/// its address and the heads it got.
async fn server(
    answer: &'static [u8],
    filler: Option<&'static [u8]>,
    closes: bool,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let _ = sender.send(String::from_utf8(head).unwrap());
            let _ = stream.write_all(answer).await;
            if let Some(filler) = filler {
                while stream.write_all(filler).await.is_ok() {}
            }
            if !closes {
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        }
    });
    (address, heads)
}

fn request(to: SocketAddr) -> LocalHttp {
    LocalHttp {
        host: to.ip().to_string(),
        port: to.port(),
        path: HttpPath::of(["health"]).unwrap().slash(),
        headers: vec![(AUTHORIZATION, "s3cr3t-key".to_owned().into())],
    }
}

#[tokio::test]
async fn an_answer_comes_through_with_the_secret_in_its_header() {
    let (to, mut heads) = server(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope", None, true).await;
    let machine = Machine::new();
    let session = machine.connect().await;
    let answer = session.http(request(to)).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (403, &b"nope"[..]));
    let head = heads.recv().await.unwrap().to_lowercase();
    assert!(head.starts_with("get /health/ http/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: s3cr3t-key\r\n") && head.contains(&format!("host: {to}\r\n")), "{head}");
    // No command was run for it.
    assert_eq!(machine.seen.commands(), [""; 0]);
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let (to, _heads) =
        server(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", Some(&[b'x'; 65536]), true).await;
    let machine = Machine::new();
    let limits = Limits { http_bytes: 100_000, ..limits() };
    let session = Session::connect_over(&machine, &machine.target, &limits).await.unwrap();
    let started = Instant::now();
    let error = session.http(request(to)).await.unwrap_err();
    assert!(matches!(error, HttpError::TooLarge { limit: 100_000, status: 200, .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    // The connection still serves.
    let look = session.look(&probe(vec![section("a", "echo hello")])).await.unwrap();
    assert_eq!(look.sections["a"], complete("hello\n"));
}

#[tokio::test]
async fn an_answer_for_which_there_is_no_room_says_nothing_of_the_server() {
    let (to, _heads) =
        server(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", Some(&[b'x'; 65536]), true).await;
    let machine = Machine::new();
    let limits = Limits { room: Room::new(100_000), ..limits() };
    let session = Session::connect_over(&machine, &machine.target, &limits).await.unwrap();
    let error = session.http(request(to)).await.unwrap_err();
    assert!(matches!(error, HttpError::NoRoom { .. }), "{error:?}");
    assert_eq!(limits.room.taken(), 0);
}

#[tokio::test]
async fn a_slow_server_is_given_up() {
    let (to, _heads) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", None, false).await;
    let machine = Machine::new();
    let limits = Limits { http: Duration::from_secs(1), ..limits() };
    let session = Session::connect_over(&machine, &machine.target, &limits).await.unwrap();
    let error = session.http(request(to)).await.unwrap_err();
    assert!(matches!(error, HttpError::TimedOut { .. }), "{error:?}");
    assert!(!error.to_string().contains("s3cr3t"));
}

#[tokio::test]
async fn what_is_no_web_server_is_broken() {
    for (answer, what) in
        [(&b"SSH-2.0-OpenSSH\r\n"[..], "other"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "cut")]
    {
        let (to, _heads) = server(answer, None, true).await;
        let error = Machine::new().connect().await.http(request(to)).await.unwrap_err();
        assert!(matches!(error, HttpError::Broken { .. }), "{what}: {error:?}");
    }
    let (to, _heads) = server(b"HTTP/1.1 200 OK\r\n", Some(b"X-Filler: yes\r\n"), true).await;
    let error = Machine::new().connect().await.http(request(to)).await.unwrap_err();
    assert!(matches!(error, HttpError::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn what_changes_something_costs_a_permit() {
    let (to, mut heads) = server(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", None, true).await;
    let session = Machine::new().connect().await;
    let change =
        || LocalHttpChange { to: request(to), method: Method::Post, json: Some(br#"{"force":true}"#.to_vec()) };
    let error = session.http_change(permit("uid-2", "a"), change()).await.unwrap_err();
    assert!(matches!(error, HttpError::WrongHost { .. }) && !error.may_have_run());
    let answer = session.http_change(permit("uid-1", "a"), change()).await.unwrap();
    assert_eq!(answer.status, 201);
    let head = heads.recv().await.unwrap().to_lowercase();
    assert!(head.starts_with("post /health/") && head.contains("content-type: application/json"), "{head}");
    assert!(heads.try_recv().is_err(), "the refused one was sent");
}

#[tokio::test]
async fn nothing_is_sent_where_nothing_listens() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Machine::new().connect().await.http(request(closed)).await.unwrap_err();
    assert!(matches!(error, HttpError::NotReached { .. }) && !error.may_have_run(), "{error:?}");
}

#[tokio::test]
async fn many_requests_do_not_wear_a_session_out() {
    let (to, _heads) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", None, true).await;
    let session = Machine::new().connect().await;
    for _ in 0..20 {
        assert_eq!(session.http(request(to)).await.unwrap().body, b"ok");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(session.leaked_channels.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn reach_tells_open_from_forbidden() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(Machine::new().connect().await.can_reach("127.0.0.1", port).await, Reach::Open);
    let reach = Machine::new().without_tunnels().connect().await.can_reach("127.0.0.1", port).await;
    assert!(matches!(&reach, Reach::Unknown(why) if why.contains("forbids tunnels")), "{reach:?}");
}

/// A certificate of nobody's, and its key: `openssl req -x509 -newkey ec`, good for a hundred years.
const CERTIFICATE: &str = "MIIBkjCCATegAwIBAgIUfkYxYHFxsSDMufbtwAI7EJcPpCwwCgYIKoZIzj0EAwIwHTEbMBkGA1UEAwwSbm9ib2R5LXRydXN0cy10\
    aGlzMCAXDTI2MTEyNTEyNTkyN1oYDzIxMjYxMTAxMTI1OTI3WjAdMRswGQYDVQQDDBJub2JvZHktdHJ1c3RzLXRoaXMwWTATBgcq\
    hkjOPQIBBggqhkjOPQMBBwNCAARt/lMI5g+ZbzBm6EEFuzG3ICXimn4UNFi8l6LhDOJSjDdF8V2xvXHcIZ+B0l9GVZfRt/EPCO/j\
    XgfI2T/MHxSDo1MwUTAdBgNVHQ4EFgQUMw1bdFC0aQfvTv7WDSMMrwaliYIwHwYDVR0jBBgwFoAUMw1bdFC0aQfvTv7WDSMMrwal\
    iYIwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAhjrsfrSztd5z3PBYBVcV8fje106zkt+/YviprWWmOk8CIQDK\
    iFYqnSj3CkqcwC75cBT8SmRjYn6rp+XuVlin3mxf5w==";
const ITS_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgO2yB2+Tgxlm2FZtUkV9XZW+GPPm3D1UkHP6PWWUuxv6hRANCAARt\
    /lMI5g+ZbzBm6EEFuzG3ICXimn4UNFi8l6LhDOJSjDdF8V2xvXHcIZ+B0l9GVZfRt/EPCO/jXgfI2T/MHxSD";

#[tokio::test]
async fn an_answer_in_tls_comes_through_whatever_the_certificate() {
    use base64::Engine;
    let bytes = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(bytes(ITS_KEY).into());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![bytes(CERTIFICATE).into()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            let _ = sender.send(String::from_utf8_lossy(&head[..read]).into_owned());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            let _ = stream.shutdown().await;
        }
    });
    let session = Machine::new().connect().await;
    let answer = session.https_unproven(request(to)).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("GET /health/ HTTP/1.1") && !head.contains("s3cr3t"), "{head}");
    // What does not speak TLS is told from what does not answer.
    let (plain, _heads) = server(b"HTTP/1.1 400 Bad Request\r\n\r\n", None, true).await;
    let error = session.https_unproven(request(plain)).await.unwrap_err();
    assert!(matches!(error, HttpError::Broken { .. } | HttpError::TimedOut { .. }), "{error}");
    assert!(session.is_alive().await);
}
