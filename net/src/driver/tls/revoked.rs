//! [`Revoked`]: who is let in no more, though its certificate still holds.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::identity::{CertifiedIdentity, PeerCertificate};

/// What a line with a serial number begins with.
const SERIAL: &str = "serial:";

/// Identities and serial numbers that are let in no more. As text: one a line, `#` begins a comment.
///
/// An identity revokes all its certificates, those to come too; a serial number one of them, so that the same node
/// or client can have another.
///
/// ```
/// use towline_net::driver::tls::Revoked;
/// let revoked: Revoked = "
///     ## left in March
///     towline://0193aabb-ccdd-7eff-8000-010203040506/client/loader
///     serial:3d:01:7f
/// ".parse()?;
/// assert_eq!(revoked.len(), 2);
/// let error = "serial:xyz".parse::<Revoked>().unwrap_err();
/// assert_eq!(error.line, 1);
/// # Ok::<(), towline_net::driver::tls::RevokedError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Revoked {
    identities: BTreeSet<CertifiedIdentity>,
    serials: BTreeSet<String>,
}

/// A line of such a list that is neither an identity nor a serial number.
///
/// ```
/// use towline_net::driver::tls::Revoked;
/// let error = "# fine\nloader".parse::<Revoked>().unwrap_err();
/// assert_eq!((error.line, error.found.as_str()), (2, "loader"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: expected `towline://..` or `serial:<hexadecimal digits>`, found {found:?}")]
#[non_exhaustive]
pub struct RevokedError {
    /// The line, from 1.
    pub line: usize,
    /// What stands there.
    pub found: String,
}

impl Revoked {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.identities.len() + self.serials.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this certificate is let in no more.
    #[must_use]
    pub fn contains(&self, certificate: &PeerCertificate) -> bool {
        self.identities.contains(&certificate.identity) || self.serials.contains(&certificate.serial)
    }
}

impl FromStr for Revoked {
    type Err = RevokedError;

    fn from_str(text: &str) -> Result<Self, RevokedError> {
        let mut revoked = Self::default();
        for (index, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            let wrong = || RevokedError { line: index + 1, found: entry.chars().take(200).collect() };
            if let Some(serial) = entry.strip_prefix(SERIAL) {
                revoked.serials.insert(serial_of(serial).ok_or_else(wrong)?);
            } else {
                revoked.identities.insert(entry.parse().map_err(|_| wrong())?);
            }
        }
        Ok(revoked)
    }
}

/// Hexadecimal digits as they are compared: small, without colons, whole bytes, no zero bytes before them.
fn serial_of(text: &str) -> Option<String> {
    let mut digits: String = text.trim().chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    if !digits.len().is_multiple_of(2) {
        digits.insert(0, '0');
    }
    while digits.starts_with("00") {
        digits.drain(..2);
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_may_be_written_as_other_tools_write_it() {
        for same in ["8f01", "8F:01", "00:8f:01", "008F01"] {
            assert_eq!(serial_of(same).as_deref(), Some("8f01"), "{same}");
        }
        assert_eq!(serial_of("f01").as_deref(), Some("0f01"));
        assert_eq!(serial_of("0x8f"), None);
        assert_eq!(serial_of(":"), None);
    }
}
