//! [`CredentialFiles`]: where certificates and the key lie, and how they are read.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::credentials::Credentials;
use super::revoked::{Revoked, RevokedError};
use crate::error::FaultClass;

/// Bytes of one such file at the most: a mistaken path must not fill the memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Where this side's certificate, its key, and what it believes lie (PEM).
///
/// ```
/// use towline_net::driver::tls::{CredentialFiles, Endpoint, FileError, TlsError};
/// let files = CredentialFiles::in_directory("nowhere");
/// assert_eq!(files.key, std::path::Path::new("nowhere/key.pem"));
/// match Endpoint::open(files) {
///     Err(TlsError::File(FileError::Read { path, .. })) => assert!(path.ends_with("certificate.pem")),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CredentialFiles {
    /// This side's certificate, then its issuers, if it has others than the authorities.
    pub certificate: PathBuf,
    /// The key of that certificate. Only its owner may read it.
    pub key: PathBuf,
    /// Issuers whose certificates the peer may show; one or more.
    pub authorities: PathBuf,
    /// Who is let in no more; see [`Revoked`].
    pub revoked: Option<PathBuf>,
}

/// Why such a file can't be used.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-3211 | operator | put the file there, or let this user read it |
/// | TW-3212 | operator | `chmod 600`: others may have read the key; if they could, make a new one |
/// | TW-3213 | operator | the file holds nothing of the kind: is it the right one, and PEM? |
/// | TW-3214 | operator | mend that line of the list |
///
/// ```
/// use towline_net::FaultClass;
/// use towline_net::driver::tls::{CredentialFiles, FileError};
/// # let directory = std::env::temp_dir().join(format!("towline-file-error-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// let files = CredentialFiles::in_directory(&directory);
/// std::fs::write(&files.certificate, "not a certificate")?;
/// std::fs::write(&files.key, "a key that everybody can read")?;
/// # #[cfg(unix)] {
/// # use std::os::unix::fs::PermissionsExt as _;
/// # std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644))?;
/// let error = files.read().unwrap_err();
/// assert!(matches!(error, FileError::KeyExposed { mode: 0o644, .. }), "{error}");
/// assert_eq!((error.code(), error.class()), (3212, FaultClass::Operator));
/// # }
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It can't be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than its owner may read the key.
    #[error("{}: others than its owner may read this key (its mode is {mode:o}, expected 600)", .path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Nothing of the kind is in it.
    #[error("{}: {what}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is missing or broken.
        what: &'static str,
    },
    /// The list of those revoked is broken.
    #[error("{}: {source}", .path.display())]
    Revoked {
        /// The file.
        path: PathBuf,
        /// Where, and what stands there.
        source: RevokedError,
    },
}

impl FileError {
    /// The stable number.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Read { .. } => 3211,
            Self::KeyExposed { .. } => 3212,
            Self::Pem { .. } => 3213,
            Self::Revoked { .. } => 3214,
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        FaultClass::Operator
    }
}

/// The files' bytes, as they were read together: to see whether anything has changed.
#[derive(PartialEq, Eq)]
pub(super) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<u8>,
    revoked: Option<Vec<u8>>,
}

impl CredentialFiles {
    /// `certificate.pem`, `key.pem` and `authority.pem` of a directory, as `towline cert` writes them.
    pub fn in_directory(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        Self {
            certificate: directory.join("certificate.pem"),
            key: directory.join("key.pem"),
            authorities: directory.join("authority.pem"),
            revoked: None,
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`FileError`]: which file, and what is wrong with it.
    pub fn read(&self) -> Result<(Credentials, Revoked), FileError> {
        self.parse(&self.contents()?)
    }

    pub(super) fn contents(&self) -> Result<Contents, FileError> {
        Ok(Contents {
            certificate: bytes_of(&self.certificate, Readers::Anybody)?,
            key: bytes_of(&self.key, Readers::OwnerAlone)?,
            authorities: bytes_of(&self.authorities, Readers::Anybody)?,
            revoked: self.revoked.as_deref().map(|path| bytes_of(path, Readers::Anybody)).transpose()?,
        })
    }

    pub(super) fn parse(&self, contents: &Contents) -> Result<(Credentials, Revoked), FileError> {
        let key = PrivateKeyDer::from_pem_slice(&contents.key);
        let key = key.map_err(|_| FileError::Pem { path: self.key.clone(), what: "there is no private key in it" })?;
        let credentials = Credentials {
            chain: certificates(&self.certificate, &contents.certificate)?,
            key,
            roots: certificates(&self.authorities, &contents.authorities)?,
        };
        let revoked = match (&self.revoked, &contents.revoked) {
            (Some(path), Some(bytes)) => String::from_utf8_lossy(bytes)
                .parse()
                .map_err(|source| FileError::Revoked { path: path.clone(), source })?,
            _ => Revoked::default(),
        };
        Ok((credentials, revoked))
    }
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let wrong = |what| FileError::Pem { path: path.to_owned(), what };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|_| wrong("a certificate in it is broken"))?;
    if found.is_empty() { Err(wrong("there is no certificate in it")) } else { Ok(found) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    Anybody,
    OwnerAlone,
}

/// The permissions are those of the very file that is read, not of what lay there a moment before.
fn bytes_of(path: &Path, readers: Readers) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    #[cfg(unix)]
    if readers == Readers::OwnerAlone {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FileError::KeyExposed { path: path.to_owned(), mode });
        }
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
