//! [`CertifiedIdentity`]: whom a certificate names, and how that is written into one.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What every identity begins with; other names in a certificate are none of ours.
const SCHEME: &str = "towline://";

/// Bytes of a client's name at the most: it stands in logs.
const NAME_BYTES_MAX: usize = 64;

/// Whom a certificate names: a node or a client of one cluster. In the certificate it is a URI among the subject's
/// alternative names: `towline://<cluster uuid>/node/<number>` or `towline://<cluster uuid>/client/<name>`.
///
/// There is one way to write each: the uuid in small letters with dashes, the number from 1 on without zeros before
/// it, the name of letters, digits, dots, dashes and underscores. Otherwise two texts could be one identity, and a
/// list of those revoked would miss one.
///
/// ```
/// use towline_net::driver::tls::{CertifiedIdentity, Subject};
/// let text = "towline://0193aabb-ccdd-7eff-8000-010203040506/node/3";
/// let identity: CertifiedIdentity = text.parse()?;
/// assert_eq!(identity.subject, Subject::Node(3));
/// assert_eq!(identity.to_string(), text);
/// assert!("towline://0193AABB-CCDD-7EFF-8000-010203040506/node/3".parse::<CertifiedIdentity>().is_err());
/// # Ok::<(), towline_net::driver::tls::IdentityError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub struct CertifiedIdentity {
    /// The cluster's uuid.
    pub cluster: [u8; 16],
    /// Who in it.
    pub subject: Subject,
}

/// Who within a cluster.
///
/// ```
/// use towline_net::driver::tls::{CertifiedIdentity, Subject};
/// let loader = CertifiedIdentity::new([7; 16], Subject::Client("loader".to_owned()))?;
/// assert_eq!(loader.to_string(), "towline://07070707-0707-0707-0707-070707070707/client/loader");
/// // A name is no path, and not empty.
/// assert!(CertifiedIdentity::new([7; 16], Subject::Client("a/b".to_owned())).is_err());
/// # Ok::<(), towline_net::driver::tls::IdentityError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Subject {
    /// A node, by its number.
    Node(u64),
    /// A client, by its name: for logs, for revocation, and for whatever decides what it may do.
    Client(String),
}

/// Why a certificate names nobody.
///
/// ```
/// use towline_net::driver::tls::{CertifiedIdentity, IdentityError};
/// let wrong = "towline://0193aabb-ccdd-7eff-8000-010203040506/node/0".parse::<CertifiedIdentity>();
/// assert!(matches!(wrong, Err(IdentityError::Form { .. })), "nodes count from 1");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// It can't be read.
    #[error("the certificate can't be read")]
    Unreadable,
    /// It names nobody.
    #[error("the certificate names neither a node nor a client (a URI `{SCHEME}..` among its alternative names)")]
    Nameless,
    /// It names more than one.
    #[error("the certificate names more than one")]
    Several,
    /// What it names is not written as an identity is.
    #[error("{found:?} is not written as `{SCHEME}<cluster uuid>/node/<number>` or `../client/<name>`")]
    Form {
        /// What is there.
        found: String,
    },
}

impl CertifiedIdentity {
    /// An identity of these parts.
    ///
    /// # Errors
    /// [`IdentityError::Form`]: a number of 0, a name with other characters, or a cluster of zeros.
    pub fn new(cluster: [u8; 16], subject: Subject) -> Result<Self, IdentityError> {
        let identity = Self { cluster, subject };
        let is_legal = match &identity.subject {
            Subject::Node(number) => *number > 0,
            Subject::Client(name) => {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
            }
        };
        if is_legal && cluster != [0; 16] {
            return Ok(identity);
        }
        Err(IdentityError::Form { found: identity.to_string() })
    }
}

impl fmt::Display for CertifiedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = uuid::Uuid::from_bytes(self.cluster);
        match &self.subject {
            Subject::Node(number) => write!(f, "{SCHEME}{cluster}/node/{number}"),
            Subject::Client(name) => write!(f, "{SCHEME}{cluster}/client/{name}"),
        }
    }
}

impl FromStr for CertifiedIdentity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let wrong = || IdentityError::Form { found: text.chars().take(200).collect() };
        let mut parts = text.strip_prefix(SCHEME).ok_or_else(wrong)?.splitn(3, '/');
        let (Some(cluster), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let cluster = uuid::Uuid::try_parse(cluster).map_err(|_| wrong())?;
        let subject = match kind {
            "node" => Subject::Node(name.parse().map_err(|_| wrong())?),
            "client" => Subject::Client(name.to_owned()),
            _ => return Err(wrong()),
        };
        let identity = Self::new(*cluster.as_bytes(), subject)?;
        // One way to write it, and this is not it: capitals, zeros before the number, braces around the uuid.
        if identity.to_string() == text { Ok(identity) } else { Err(wrong()) }
    }
}

/// What is read of a certificate: whom it names, its serial number, and until when it holds. It proves nothing by
/// itself: see [`Endpoint`](super::Endpoint) for who checks it.
///
/// ```
/// use towline_net::driver::tls::{IdentityError, PeerCertificate};
/// # mod authority { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/authority.rs")); }
/// # use authority::*;
/// # let authority = Authority::new();
/// let (certificate, _) = authority.issue("towline://0193aabb-ccdd-7eff-8000-010203040506/client/loader");
/// let read = PeerCertificate::read(&certificate)?;
/// assert!(read.identity.to_string().ends_with("/client/loader"));
/// assert!(read.serial.len() >= 2, "hexadecimal digits: {}", read.serial);
///
/// let (of_a_host, _) = authority.issue("server.test");
/// assert_eq!(PeerCertificate::read(&of_a_host), Err(IdentityError::Nameless));
/// # Ok::<(), IdentityError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PeerCertificate {
    /// Whom it names.
    pub identity: CertifiedIdentity,
    /// Its serial number, as small hexadecimal digits, two for each byte.
    pub serial: String,
    /// When it ends.
    pub not_after: SystemTime,
}

impl PeerCertificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`IdentityError`]: it names nobody, or more than one.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| IdentityError::Unreadable)?;
        let names = parsed.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let mut ours = names.into_iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
        let identity = ours.next().ok_or(IdentityError::Nameless)?.parse()?;
        if ours.next().is_some() {
            return Err(IdentityError::Several);
        }
        Ok(Self {
            identity,
            serial: digits(parsed.tbs_certificate.raw_serial()),
            not_after: time_of(parsed.validity().not_after.timestamp()),
        })
    }

    /// Reads the first certificate of a PEM file.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_pem(text: &[u8]) -> Result<Self, IdentityError> {
        Self::read(&CertificateDer::from_pem_slice(text).map_err(|_| IdentityError::Unreadable)?)
    }
}

/// When the first of these certificates ends; of one that can't be read it has ended.
pub(super) fn earliest_end(chain: &[CertificateDer<'_>]) -> SystemTime {
    let end = |certificate: &CertificateDer<'_>| {
        X509Certificate::from_der(certificate)
            .map_or(SystemTime::UNIX_EPOCH, |(_, parsed)| time_of(parsed.validity().not_after.timestamp()))
    };
    chain.iter().map(end).min().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn time_of(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A serial number as it is compared: without the zero bytes that DER puts before a high bit.
fn digits(bytes: &[u8]) -> String {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let mut text = String::new();
    for byte in bytes.get(start..).unwrap_or_default() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identities() -> impl Strategy<Value = CertifiedIdentity> {
        let subject =
            prop_oneof![(1..=u64::MAX).prop_map(Subject::Node), "[a-zA-Z0-9._-]{1,64}".prop_map(Subject::Client),];
        (any::<[u8; 16]>().prop_filter("not zero", |cluster| *cluster != [0; 16]), subject)
            .prop_map(|(cluster, subject)| CertifiedIdentity::new(cluster, subject).unwrap())
    }

    proptest! {
        #[test]
        fn an_identity_is_read_back_as_it_was_written(identity in identities()) {
            prop_assert_eq!(identity.to_string().parse(), Ok(identity));
        }

        #[test]
        fn what_is_read_as_an_identity_is_written_in_its_one_way(
            text in "towline://[0-9a-f]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-f]{12}/(node/0?[0-9]{0,3}|client/[ -~]{0,12})",
        ) {
            if let Ok(identity) = text.parse::<CertifiedIdentity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }

        #[test]
        fn one_more_character_or_one_less_is_another_identity_or_none(identity in identities(), at in 0_usize..80) {
            let text = identity.to_string();
            let mut shorter = text.clone();
            shorter.remove(at % text.len());
            prop_assert_ne!(shorter.parse(), Ok(identity.clone()));
            prop_assert_ne!(format!("{text}/").parse(), Ok(identity));
        }
    }

    #[test]
    fn other_ways_to_write_one_identity_are_refused() {
        const UUID: &str = "0193aabb-ccdd-7eff-8000-010203040506";
        let refused = |text: String| text.parse::<CertifiedIdentity>().is_err();
        assert!(!refused(format!("towline://{UUID}/node/1")));
        for wrong in [
            format!("towline://{UUID}/node/01"),
            format!("towline://{UUID}/node/+1"),
            format!("towline://{UUID}/node/0"),
            format!("towline://{UUID}/node/1/"),
            format!("towline://{UUID}/node/1?a"),
            format!("towline://{UUID}/client/"),
            format!("towline://{UUID}/client/a/b"),
            format!("towline://{UUID}/admin/a"),
            format!("towline://{UUID}"),
            format!("TOWLINE://{UUID}/node/1"),
            format!("towline://{}/node/1", UUID.to_uppercase()),
            format!("towline://{}/node/1", UUID.replace('-', "")),
            "towline://00000000-0000-0000-0000-000000000000/node/1".to_owned(),
            format!("towline://{UUID}/client/{}", "a".repeat(65)),
        ] {
            assert!(refused(wrong.clone()), "{wrong}");
        }
    }

    #[test]
    fn a_serial_number_has_no_zero_bytes_before_it() {
        assert_eq!(digits(&[0, 0x8f, 0x01]), "8f01");
        assert_eq!(digits(&[0]), "");
    }
}
