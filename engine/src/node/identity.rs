//! Whose data directory this is: a small file that is written once, and compared at every open.

use super::error::bytes_class;
use crate::model::codec::{self, CodecError, Decode, Encode, Enveloped};
use crate::model::request::FailureClass;
use crate::model::{ClusterId, NodeId};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const FILE: &str = "IDENTITY";
const TEMPORARY: &str = "IDENTITY.new";

/// Which node of which cluster a data directory belongs to, and which directory it is.
///
/// ```
/// use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let identity = *node.identity();
/// node.close()?;
///
/// // Whoever opens it again may insist on the cluster: a directory of another one is refused.
/// let mut options = NodeOptions::alone(directory.path());
/// options.cluster = Some(identity.cluster);
/// let node = Node::open(options)?;
/// assert_eq!(*node.identity(), identity);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The directory: drawn when it was made, so that a node with an emptied disk is not taken for its old self.
    pub directory: [u8; 16],
}

impl Enveloped for Identity {
    const KIND: u16 = 0x0501;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 128;
}

/// Why a data directory can't be used by this node.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6011 | operator | name another directory, or mend the configuration |
/// | TW-6012 | damage, or operator | restore it, or begin with an empty directory; or a newer release wrote it: install that |
/// | TW-6013 | operator | what the operating system says |
///
/// ```
/// use towline::model::ClusterId;
/// use towline::node::{IdentityError, Node, NodeOptions, OpenError};
/// # let directory = tempfile::tempdir()?;
/// let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let cluster = node.identity().cluster;
/// node.close()?;
///
/// // The disk of another cluster is mounted there.
/// let mut options = NodeOptions::alone(directory.path());
/// options.cluster = Some(ClusterId::new([9; 16]));
/// match Node::open(options) {
///     Err(OpenError::Identity(IdentityError::Foreign { found_cluster, .. })) => assert_eq!(found_cluster, cluster),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The directory belongs to somebody else. Nothing in it was touched.
    #[error(
        "data directory {} belongs to node {found_node} of cluster {found_cluster}, \
         not to node {node} of cluster {cluster}: name another directory, or mend the configuration",
        .path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Who opens it.
        node: NodeId,
        /// The opener's cluster.
        cluster: ClusterId,
        /// Whose it is.
        found_node: NodeId,
        /// The owner's cluster.
        found_cluster: ClusterId,
    },
    /// The identity file can't be read as one.
    #[error("{} is not a readable identity file ({source}): restore it from a backup, or begin with an empty directory", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CodecError,
    },
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl IdentityError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Foreign { .. } => 6011,
            Self::Damaged { .. } => 6012,
            Self::Io { .. } => 6013,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Foreign { .. } | Self::Io { .. } => FailureClass::Operator,
            Self::Damaged { source, .. } => bytes_class(source),
        }
    }
}

/// Makes a directory and every level above it that is missing, each durable in its parent before anything is put
/// inside (otherwise a power cut could take a directory with synced files in it).
///
/// # Errors
/// What the operating system says, with the path it is about.
pub(super) fn create_durably(path: &Path) -> Result<(), IdentityError> {
    let failed = |path: &Path, source| IdentityError::Io { path: path.to_owned(), source };
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(failed(path, error)),
    }
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(|error| failed(parent, error))
}

/// Syncs a directory: the entries in it are durable.
///
/// # Errors
/// What the operating system says.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The identity in a data directory; none if it has none yet.
///
/// # Errors
/// The file is there and can't be read, or is not an identity.
pub(super) fn read(directory: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = directory.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => match codec::decode(&bytes) {
            Ok(identity) => Ok(Some(identity)),
            Err(source) => Err(IdentityError::Damaged { path, source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Io { path, source }),
    }
}

/// Refuses a directory of somebody else.
///
/// # Errors
/// [`IdentityError::Foreign`].
pub(super) fn check(directory: &Path, found: &Identity, cluster: ClusterId, node: NodeId) -> Result<(), IdentityError> {
    if found.cluster == cluster && found.node == node {
        return Ok(());
    }
    Err(IdentityError::Foreign {
        path: directory.to_owned(),
        node,
        cluster,
        found_node: found.node,
        found_cluster: found.cluster,
    })
}

/// Writes the identity of a new directory: whole and durable, or not at all.
///
/// # Errors
/// What the operating system says.
pub(super) fn write(directory: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let (path, temporary) = (directory.join(FILE), directory.join(TEMPORARY));
    let failed = |source| IdentityError::Io { path: path.clone(), source };
    let bytes = codec::encode(identity).map_err(|source| IdentityError::Damaged { path: path.clone(), source })?;
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, &path).map_err(failed)?;
    File::open(directory).and_then(|handle| handle.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { cluster: ClusterId::new([3; 16]), node: NodeId::new(2), directory: [7; 16] }
    }

    #[test]
    fn an_identity_is_written_and_read_as_the_golden_file_says() {
        let file = crate::golden::check("identity.bin", &codec::encode(&identity()).unwrap());
        assert_eq!(codec::decode::<Identity>(&file).unwrap(), identity());
    }

    #[test]
    fn a_directory_of_another_node_or_cluster_is_refused_and_both_are_named() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &identity()).unwrap();
        let found = read(directory.path()).unwrap().unwrap();
        check(directory.path(), &found, ClusterId::new([3; 16]), NodeId::new(2)).unwrap();
        let other_node = check(directory.path(), &found, ClusterId::new([3; 16]), NodeId::new(1));
        let sentence = other_node.unwrap_err().to_string();
        assert!(sentence.contains("belongs to node 2") && sentence.contains("not to node 1"), "{sentence}");
        let other_cluster = check(directory.path(), &found, ClusterId::new([4; 16]), NodeId::new(2));
        assert!(matches!(other_cluster, Err(IdentityError::Foreign { .. })));
    }

    #[test]
    fn a_damaged_identity_is_refused_and_a_missing_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        fs::write(directory.path().join(FILE), b"nonsense").unwrap();
        assert!(matches!(read(directory.path()), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn every_missing_level_of_a_directory_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b/c");
        create_durably(&deep).unwrap();
        assert!(deep.is_dir());
        create_durably(&deep).unwrap();
    }
}
