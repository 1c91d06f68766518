//! Who is let in (I12): the chain by the roots, the identity in the certificate, the list of those revoked. Every
//! certificate is judged here, in a handshake and again when what is believed has changed.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};

use super::credentials::{Credentials, provider};
use super::endpoint::Peer;
use super::identity::{CertifiedIdentity, IdentityError, PeerCertificate, Subject};
use super::revoked::Revoked;
use super::{Distrust, TlsError};
use crate::mutant::{Mutant, planted};

/// What one side believes, at one time.
#[derive(Debug)]
pub(super) struct Judge {
    cluster: [u8; 16],
    revoked: Revoked,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    /// The chains of those who dial.
    dialers: Arc<dyn ClientCertVerifier>,
}

/// Why a certificate that holds is not let in. It goes to our log inside a [`rustls::Error`]; the peer hears an alert
/// that says nothing of it.
#[derive(Debug, thiserror::Error)]
enum Unwanted {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{0} is of another cluster")]
    Cluster(CertifiedIdentity),
    #[error("{found} is not node {expected}, which was dialled")]
    Node { expected: u64, found: CertifiedIdentity },
    #[error("{0} is no node, and only nodes are dialled")]
    NoNode(CertifiedIdentity),
    #[error("{identity} is revoked (its certificate's serial number: {serial})")]
    Revoked { identity: CertifiedIdentity, serial: String },
}

impl From<Unwanted> for rustls::Error {
    fn from(why: Unwanted) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
    }
}

/// What a person reads of an error of rustls: that names of ours stand in its own is left out.
pub(super) fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(ours))) => ours.to_string(),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the certificate is of no authority that is believed here (UnknownIssuer)".to_owned()
        }
        other => other.to_string(),
    }
}

/// What a handshake failed by, as far as the peer's certificate is the reason.
pub(super) fn distrust(source: rustls::Error) -> TlsError {
    use CertificateError as E;
    let why = match &source {
        rustls::Error::NoCertificatesPresented => Some(Distrust::NoCertificate),
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
                Some(Distrust::Dates)
            }
            // One that bears the name of an authority, and not its signature.
            E::UnknownIssuer | E::BadSignature => Some(Distrust::Authority),
            E::NotValidForName | E::NotValidForNameContext { .. } => Some(Distrust::Names),
            E::Other(OtherError(ours)) => match ours.downcast_ref() {
                Some(Unwanted::Cluster(_) | Unwanted::Node { .. } | Unwanted::NoNode(_)) => Some(Distrust::Names),
                Some(Unwanted::Revoked { .. }) => Some(Distrust::Revoked),
                Some(Unwanted::Identity(nameless)) => return TlsError::Identity(nameless.clone()),
                None => None,
            },
            _ => None,
        },
        _ => None,
    };
    match why {
        Some(why) => TlsError::Untrusted { why, source },
        None => TlsError::Handshake(io::Error::new(io::ErrorKind::InvalidData, source)),
    }
}

impl Judge {
    pub(super) fn new(cluster: [u8; 16], credentials: &Credentials, revoked: Revoked) -> Result<Self, TlsError> {
        let (provider, roots) = (provider(), Arc::new(credentials.root_store()?));
        let dialers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(TlsError::Roots)?;
        Ok(Self { cluster, revoked, roots, provider, dialers })
    }

    /// Of a peer that dialled.
    pub(super) fn dialer(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), rustls::Error> {
        let (end_entity, issuers) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        if !planted(Mutant::AnyAuthority) {
            self.dialers.verify_client_cert(end_entity, issuers, clock(now))?;
        }
        self.admit(end_entity)?;
        Ok(())
    }

    /// Of a peer that was dialled.
    pub(super) fn acceptor(
        &self,
        chain: &[CertificateDer<'_>],
        peer: &Peer,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let (end_entity, issuers) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        if !planted(Mutant::AnyAuthority) {
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, issuers, clock(now), algorithms)?;
        }
        let identity = self.admit(end_entity)?;
        match (peer, &identity.subject) {
            (_, Subject::Client(_)) => Err(Unwanted::NoNode(identity).into()),
            (Peer::Node(expected), Subject::Node(found)) if expected != found => {
                Err(Unwanted::Node { expected: *expected, found: identity }.into())
            }
            // The number is better than a name: addresses are reused.
            (Peer::Node(_), Subject::Node(_)) => Ok(()),
            (Peer::Host(name), Subject::Node(_)) => verify_server_name(&parsed, name),
        }
    }

    fn admit(&self, certificate: &CertificateDer<'_>) -> Result<CertifiedIdentity, Unwanted> {
        let read = PeerCertificate::read(certificate)?;
        if read.identity.cluster != self.cluster && !planted(Mutant::AnyCluster) {
            return Err(Unwanted::Cluster(read.identity));
        }
        if self.revoked.contains(&read) && !planted(Mutant::IgnoreRevoked) {
            return Err(Unwanted::Revoked { identity: read.identity, serial: read.serial });
        }
        Ok(read.identity)
    }
}

/// The methods that both traits of rustls want: whether the peer holds the key of its certificate. rustls's own verifier
/// knows; nothing about it is ours.
macro_rules! signatures_by {
    ($self:ident => $verifier:expr) => {
        fn verify_tls12_signature(
            &$self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            $verifier.verify_tls12_signature(message, certificate, signed)
        }

        fn verify_tls13_signature(
            &$self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            $verifier.verify_tls13_signature(message, certificate, signed)
        }

        fn supported_verify_schemes(&$self) -> Vec<SignatureScheme> {
            $verifier.supported_verify_schemes()
        }
    };
}

/// As rustls asks it of the accepting side.
impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.dialers.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.dialer(&chain_of(end_entity, intermediates), now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures_by!(self => self.dialers);
}

/// As rustls asks it of the dialling side: one for each connection, for it knows whom that one looks for.
#[derive(Debug)]
pub(super) struct Dialling {
    pub(super) judge: Arc<Judge>,
    pub(super) peer: Peer,
}

impl ServerCertVerifier for Dialling {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge.acceptor(&chain_of(end_entity, intermediates), &self.peer, now)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_by!(self => self.judge.dialers);
}

/// The time at which certificates are judged.
fn clock(now: UnixTime) -> UnixTime {
    if planted(Mutant::StoppedClock) { UnixTime::since_unix_epoch(Duration::from_secs(946_684_800)) } else { now }
}

fn chain_of<'a>(end_entity: &CertificateDer<'a>, issuers: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(end_entity).chain(issuers).cloned().collect()
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(number) => write!(f, "node {number}"),
            Self::Host(name) => write!(f, "{}", name.to_str()),
        }
    }
}
