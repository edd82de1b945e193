//! Certificates: authorities, servers and users of an API.
//!
//! Keys are P-256, which is quick to make and to use. Knows nothing of where files lie or who gets which certificate.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// A key or a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the certificate of {subject}")]
pub struct PkiError {
    subject: String,
    #[source]
    source: rcgen::Error,
}

/// A certificate with its key, both as PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub certificate: String,
    pub key: String,
}

/// Something that signs certificates.
pub(crate) struct Authority {
    name: String,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Whom a certificate is for.
pub(crate) enum Subject<'a> {
    /// A server, reached under these names and addresses. Also a client: etcd calls itself.
    Server { name: &'a str, names: &'a [&'a str], addresses: &'a [IpAddr] },
    /// A user of the API, by the name and the group that access rules speak of.
    User { name: &'a str, group: Option<&'a str> },
}

impl Authority {
    /// A new one. The second part of the result is its key, to be kept for [`Authority::load`].
    pub(crate) fn create(name: &str) -> Result<(Self, String), PkiError> {
        let failed = |source| PkiError { subject: name.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let pem = key.serialize_pem();
        let certificate = authority_of(name).self_signed(&key).map_err(failed)?.pem();
        Ok((Self { name: name.to_owned(), certificate, issuer: Issuer::new(authority_of(name), key) }, pem))
    }

    /// One that was created before under the same name, from its certificate and its key.
    pub(crate) fn load(name: &str, certificate: String, key: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key).map_err(|source| PkiError { subject: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), certificate, issuer: Issuer::new(authority_of(name), key) })
    }

    /// Its own certificate: what makes others believe the ones that it signs.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    pub(crate) fn issue(&self, subject: &Subject<'_>) -> Result<Identity, PkiError> {
        let failed = |source| PkiError { subject: format!("{subject} ({})", self.name), source };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = subject.params().and_then(|params| params.signed_by(&key, &self.issuer)).map_err(failed)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A key pair to sign and check service account tokens with, as PEM: private, public.
pub(crate) fn signing_pair() -> Result<(String, String), PkiError> {
    let key = KeyPair::generate().map_err(|source| PkiError { subject: "service accounts".to_owned(), source })?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

impl Subject<'_> {
    fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut params = blank();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        match self {
            Self::Server { name, names, addresses } => {
                params.distinguished_name.push(DnType::CommonName, *name);
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
                for name in *names {
                    params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
                }
                params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
            }
            Self::User { name, group } => {
                params.distinguished_name.push(DnType::CommonName, *name);
                if let Some(group) = group {
                    params.distinguished_name.push(DnType::OrganizationName, *group);
                }
            }
        }
        Ok(params)
    }
}

impl std::fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server { name, .. } => write!(f, "server {name}"),
            Self::User { name, .. } => write!(f, "user {name}"),
        }
    }
}

fn authority_of(name: &str) -> CertificateParams {
    let mut params = blank();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// Valid whatever the clock says: a lab lives for hours, and nothing is gained when its certificates run out.
fn blank() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2016, 1, 1);
    params.not_after = date_time_ymd(2116, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params
}
