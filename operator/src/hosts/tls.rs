//! TLS that proves nothing, over a tunnel to a machine's own loopback address: to see whether somebody answers there.
//!
//! Whoever listens on a machine's loopback is on the machine, which has proven itself with its host key; its certificate
//! would say no more. Must not carry a secret, nor an answer that anybody trusts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http::Trouble;
use super::reach::Tunnel;

/// Takes any certificate.
#[derive(Debug)]
struct Anybody(CryptoProvider);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Speaks TLS over a tunnel. One that fails counts as a leaked channel: it is cut and not closed.
pub(super) async fn wrapped(tunnel: Tunnel, leaked_channels: &Arc<AtomicU32>) -> Result<TlsStream<Tunnel>, Trouble> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Trouble::broken(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(ring::default_provider())))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(|error| Trouble::broken(&error))?;
    let cut = Cut(Some(leaked_channels));
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tunnel).await;
    let stream = stream.map_err(|error| Trouble::broken(&error))?;
    cut.kept();
    Ok(stream)
}

/// Counts a tunnel that is given up.
struct Cut<'a>(Option<&'a Arc<AtomicU32>>);

impl Cut<'_> {
    fn kept(mut self) {
        self.0 = None;
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if let Some(leaked_channels) = self.0 {
            leaked_channels.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The tunnel under it.
pub(super) fn unwrapped(stream: TlsStream<Tunnel>) -> Tunnel {
    stream.into_inner().0
}
