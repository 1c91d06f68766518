//! The configuration file of a node: one TOML file, read once, at the start.
//!
//! ```toml
//! cluster  = "0193aabb-ccdd-7eff-8000-010203040506"  # the same in every node's file
//! node_id  = 1                                        # this node
//! data_dir = "/var/lib/towline"
//! listen   = "10.0.0.1:7400"                          # port 0: any free one
//!
//! [shard]
//! leader    = 1
//! namespace = "default"                               # may be left out: "default"
//!
//! [[node]]                                            # every voter, this node included
//! id      = 1
//! address = "10.0.0.1:7400"
//!
//! [[namespace]]                                       # may be left out: the same in every node's file, in the same order
//! name     = "orders"
//! shards   = 16                                       # one, if it is left out; for keys that begin with any byte alike
//!
//! [[namespace]]
//! name     = "names"
//! split_at = ["h", "p"]                               # or so: where its shards begin, but for the first
//!
//! [log]                                               # may be left out
//! segment_bytes    = 67_108_864
//! retention_bytes  = 1_073_741_824                    # of the log of one of several nodes, beside what is needed
//! retention_seconds = 86_400                          # may be left out: however old
//! follower_bytes   = 1_073_741_824                    # what a leader keeps for a follower that is behind
//! replay_bytes     = 536_870_912                      # what an opening after a crash may have to replay
//! scrub_bytes_per_second = 4_194_304                  # how fast it is read again, for what rots; 0: never
//! scrub_pause_seconds = 604_800                       # between two such passes
//!
//! [limits]                                            # may be left out
//! queue_bytes   = 16_777_216
//! clients_bytes = 536_870_912
//! quorum_seconds = 5
//! snapshot_bytes_per_second = 67_108_864              # 0: no limit
//! catch_up_bytes_per_second = 33_554_432              # for each node that is behind, while something is written; 0: no limit
//!
//! [tls]                                               # for all but loopback
//! certificate    = "tls/certificate.pem"
//! key            = "tls/key.pem"
//! authorities    = "tls/authority.pem"
//! revoked        = "tls/revoked.txt"                  # may be left out: nobody
//! reload_seconds = 10                                 # may be left out
//!
//! [[grant]]                                           # may be left out: whoever is let in may do everything
//! identity   = "towline://0193aabb-ccdd-7eff-8000-010203040506/client/shop"
//! namespaces = ["shop", "shop-*"]
//! actions    = ["read", "write"]
//! ```
//!
//! Without `[tls]`, addresses that are not loopback are refused, unless `insecure_plaintext = true` stands at the top:
//! whoever reaches such a port reads and writes everything.
//!
//! Unknown keys are refused. An error names the file, the line, the column, the field and what was expected there.
//! A relative path is relative to the directory of the file, so that it means the same wherever the program
//! is started.

use super::grants::{Certificates, Grant, GrantText};
use super::layout::NamespaceLayout;
use super::layout_text::NamespaceText;
use super::{
    CATCH_UP_BYTES_PER_SECOND_DEFAULT, FOLLOWER_LOG_BYTES_DEFAULT, NAMESPACE_NAME, REPLAY_BYTES_DEFAULT,
    SCRUB_BYTES_PER_SECOND_DEFAULT, SCRUB_PAUSE_DEFAULT, SNAPSHOT_BYTES_PER_SECOND_DEFAULT,
};
use crate::model::limits::{LOG_SEGMENT_BYTES_MIN, QUEUE_BYTES_DEFAULT, QUORUM_LOST_AFTER_DEFAULT, VOTERS_MAX};
use crate::model::request::FailureClass;
use crate::model::{ClusterId, NodeId, Policy, Retention};
use serde::Deserialize;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use towline_wal::limits::{SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX};

/// The state is flushed each time: more often would make nothing but small files.
const REPLAY_BYTES_MIN: u64 = 64 * 1024;
/// A leader that waits longer for its majority serves nobody by it.
const QUORUM_SECONDS_MAX: u64 = 3600;
/// A log that is read less often is as good as never read.
const SCRUB_PAUSE_SECONDS_MAX: u64 = 366 * 24 * 60 * 60;
/// Bytes of the submission queue below which one write of the largest size would not fit.
const QUEUE_BYTES_MIN: u64 = 1024 * 1024;
/// Bytes of the submission queue above which it is memory that waits, not a queue.
const QUEUE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Bytes that a server holds for its clients together: ten of them may take none of the largest answers.
const CLIENTS_BYTES_DEFAULT: u64 = 512 << 20;
/// Below this a client that reads a page of the largest values beside another might be taken for one that takes nothing.
const CLIENTS_BYTES_MIN: u64 = 64 << 20;
/// Above this it bounds nothing.
const CLIENTS_BYTES_MAX: u64 = 1 << 40;

/// How often credentials in files are looked at, unless the configuration says otherwise. Whoever is revoked has this
/// long, and the bound is a minute (N13).
const RELOAD_SECONDS_DEFAULT: u64 = 10;
const RELOAD_SECONDS_MAX: u64 = 60;

/// One node's configuration, checked.
///
/// ```
/// use towline::node::Config;
/// let text = r#"
///     cluster = "0193aabb-ccdd-7eff-8000-010203040506"
///     node_id = 1
///     data_dir = "/var/lib/towline"
///     listen = "127.0.0.1:0"
///     [shard]
///     leader = 1
///     [[node]]
///     id = 1
///     address = "127.0.0.1:7400"
/// "#;
/// let config = Config::parse("node-1.toml".as_ref(), text)?;
/// assert_eq!(config.leader.get(), 1);
///
/// let wrong = text.replace("leader = 1", "leader = 9");
/// let sentence = Config::parse("node-1.toml".as_ref(), &wrong).unwrap_err().to_string();
/// assert_eq!(sentence, "node-1.toml:7:14: shard.leader: expected the id of one of the nodes (1), found 9");
/// # Ok::<(), towline::node::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Where its data lies; made if it is missing.
    pub data_dir: PathBuf,
    /// Where it listens, `host:port`.
    pub listen: String,
    /// Who leads the shard.
    pub leader: NodeId,
    /// The namespace's name.
    pub namespace: String,
    /// All voters, this node among them, in the order of the file.
    pub nodes: Vec<NodeAddress>,
    /// The namespaces beside the default one, in the order of the file: see [`super::NodeOptions::namespaces`].
    pub namespaces: Vec<NamespaceLayout>,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Bytes of submissions that wait to be sequenced.
    pub queue_bytes: usize,
    /// Bytes that clients, all of them together, may have the server hold: what they asked for and do not take, and what they sent
    /// and is not done. When it is more, connections end (TW-3027): of the client that has most, the largest.
    pub clients_bytes: u64,
    /// How long a leader waits for a majority of the voters before it gives up: see [`super::NodeOptions::quorum_lost_after`].
    pub quorum_lost_after: Duration,
    /// What the log of one of several nodes keeps: see [`super::NodeOptions::retention`].
    pub retention: Retention,
    /// Bytes of its log that a leader keeps for a follower: see [`super::NodeOptions::follower_log_bytes`].
    pub follower_log_bytes: u64,
    /// Bytes of snapshots a second: see [`super::NodeOptions::snapshot_bytes_per_second`].
    pub snapshot_bytes_per_second: u64,
    /// Bytes of the log a second for followers that are behind: see [`super::NodeOptions::catch_up_bytes_per_second`].
    pub catch_up_bytes_per_second: u64,
    /// Bytes of the log to replay: see [`super::NodeOptions::replay_bytes_max`].
    pub replay_bytes_max: u64,
    /// Bytes of the log that are read again a second: see [`super::NodeOptions::scrub_bytes_per_second`].
    pub scrub_bytes_per_second: u64,
    /// How long it waits between two passes: see [`super::NodeOptions::scrub_pause`].
    pub scrub_pause: Duration,
    /// Credentials, for the connections of clients and of nodes alike; none: plain TCP.
    pub tls: Option<TlsConfig>,
    /// Plain TCP also where others can reach it.
    pub insecure_plaintext: bool,
    /// What clients may do; none: whoever is let in may do everything.
    pub grants: Vec<Grant>,
}

/// Where a node's credentials lie, and how often it looks whether they have changed.
///
/// ```
/// use std::{path::Path, time::Duration};
/// use towline::node::Config;
/// let text = r#"
///     cluster = "0193aabb-ccdd-7eff-8000-010203040506"
///     node_id = 1
///     data_dir = "/var/lib/towline"
///     listen = "10.0.0.1:7400"
///     shard = { leader = 1 }
///     node = [{ id = 1, address = "10.0.0.1:7400" }]
///     tls = { certificate = "tls/certificate.pem", key = "tls/key.pem", authorities = "tls/authority.pem" }
/// "#;
/// # if cfg!(feature = "tls") {
/// let tls = Config::parse("/etc/towline/node-1.toml".as_ref(), text)?.tls.expect("it is there");
/// assert_eq!(tls.key, Path::new("/etc/towline/tls/key.pem"));
/// assert_eq!((tls.revoked, tls.reload), (None, Duration::from_secs(10)));
/// # }
/// # Ok::<(), towline::node::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsConfig {
    /// The node's certificate, then its issuers.
    pub certificate: PathBuf,
    /// The certificate's key. Only its owner may read it.
    pub key: PathBuf,
    /// Whose certificates are believed.
    pub authorities: PathBuf,
    /// Who is let in no more.
    pub revoked: Option<PathBuf>,
    /// How often they are looked at.
    pub reload: Duration,
}

/// A node and where it is found.
///
/// ```
/// use towline::node::Config;
/// let text = r#"
///     cluster = "0193aabb-ccdd-7eff-8000-010203040506"
///     node_id = 2
///     data_dir = "/var/lib/towline"
///     listen = "10.0.0.2:7400"
///     insecure_plaintext = true
///     shard = { leader = 1 }
///     node = [{ id = 1, address = "10.0.0.1:7400" }, { id = 2, address = "10.0.0.2:7400" }]
/// "#;
/// let config = Config::parse("node-2.toml".as_ref(), text)?;
/// let leader = config.nodes.iter().find(|node| node.id == config.leader);
/// assert_eq!(leader.map(|node| node.address.as_str()), Some("10.0.0.1:7400"));
/// # Ok::<(), towline::node::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeAddress {
    /// The node.
    pub id: NodeId,
    /// Its address, `host:port`.
    pub address: String,
}

/// Why a configuration can't be used.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6001 | operator | make the file readable, or name another |
/// | TW-6002 | fix the request | mend the text at that place |
/// | TW-6003 | fix the request | mend that field: the sentence says what is expected |
/// | TW-6004 | fix the request | add a section `[tls]`; or, where nobody else reaches that network, `insecure_plaintext = true` |
///
/// ```
/// use towline::model::request::FailureClass;
/// use towline::node::{Config, config::ConfigError};
/// let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1'\n\
///     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// match Config::parse("node.toml".as_ref(), text).unwrap_err() {
///     ConfigError::Field { field, place, .. } => assert_eq!((field, place.line), ("listen", 4), "it has no port"),
///     other => panic!("{other}"),
/// }
/// let missing = Config::read("nowhere/node.toml".as_ref()).unwrap_err();
/// assert_eq!((missing.code(), missing.class()), ("TW-6001", FailureClass::Operator));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The text is not TOML, a key is unknown or missing, or a value has the wrong type.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What is wrong, as the parser says it.
        message: String,
    },
    /// A value does not hold.
    #[error("{place}: {field}: expected {expected}, found {found}")]
    Field {
        /// Where.
        place: Place,
        /// The field, with its table.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Others could reach an address over plain TCP.
    #[error(
        "{place}: {field}: {address} is not loopback, and without [tls] whoever reaches it reads and writes everything: \
         add [tls], or say insecure_plaintext = true"
    )]
    Plaintext {
        /// Where.
        place: Place,
        /// The field, with its table.
        field: &'static str,
        /// The address.
        address: String,
    },
}

impl ConfigError {
    /// Its stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "TW-6001",
            Self::Syntax { .. } => "TW-6002",
            Self::Field { .. } => "TW-6003",
            Self::Plaintext { .. } => "TW-6004",
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Read { .. } => FailureClass::Operator,
            Self::Syntax { .. } | Self::Field { .. } | Self::Plaintext { .. } => FailureClass::FixRequest,
        }
    }
}

/// A place in a configuration file.
///
/// ```
/// use towline::node::{Config, config::ConfigError};
/// match Config::parse("node.toml".as_ref(), "cluster = '0193'\nnode_id = one").unwrap_err() {
///     // As compilers write it: editors know how to go there.
///     ConfigError::Syntax { place, .. } => assert_eq!(place.to_string(), "node.toml:2:11"),
///     other => panic!("{other}"),
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Place {
    fn of(file: &Path, text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.get(line_start..).map_or(0, |line| line.chars().count()) + 1;
        Self { file: file.to_owned(), line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks the text of a file; `path` is for the messages, and for what a relative `data_dir` is relative to.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: ConfigText = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            place: Place::of(path, text, error.span().map_or(0, |span| span.start)),
            message: error.message().trim_end().replace('\n', ", "),
        })?;
        Checker { path, text }.config(raw)
    }

    /// The log's options.
    #[must_use]
    pub fn log_options(&self) -> towline_wal::Options {
        towline_wal::Options { segment_bytes: self.segment_bytes, ..towline_wal::Options::default() }
    }
}

/// The file as it is written: every value that is checked further remembers its place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigText {
    cluster: Spanned<String>,
    node_id: Spanned<u64>,
    data_dir: Spanned<PathBuf>,
    listen: Spanned<String>,
    #[serde(default)]
    insecure_plaintext: bool,
    shard: ShardText,
    node: Spanned<Vec<Spanned<NodeText>>>,
    #[serde(default)]
    namespace: Vec<NamespaceText>,
    #[serde(default)]
    log: LogText,
    #[serde(default)]
    limits: LimitsText,
    tls: Option<Spanned<TlsText>>,
    #[serde(default)]
    grant: Vec<GrantText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsText {
    certificate: Spanned<PathBuf>,
    key: Spanned<PathBuf>,
    authorities: Spanned<PathBuf>,
    revoked: Option<Spanned<PathBuf>>,
    reload_seconds: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardText {
    leader: Spanned<u64>,
    namespace: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeText {
    id: Spanned<u64>,
    address: Spanned<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct LogText {
    segment_bytes: Option<Spanned<u64>>,
    retention_bytes: Option<Spanned<u64>>,
    retention_seconds: Option<Spanned<u64>>,
    follower_bytes: Option<Spanned<u64>>,
    replay_bytes: Option<Spanned<u64>>,
    scrub_bytes_per_second: Option<Spanned<u64>>,
    scrub_pause_seconds: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct LimitsText {
    queue_bytes: Option<Spanned<u64>>,
    clients_bytes: Option<Spanned<u64>>,
    quorum_seconds: Option<Spanned<u64>>,
    snapshot_bytes_per_second: Option<Spanned<u64>>,
    catch_up_bytes_per_second: Option<Spanned<u64>>,
}

pub(super) struct Checker<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Checker<'_> {
    /// How much a second others are given, of snapshots and of the log; 0: as much as there is.
    fn given_per_second(&self, raw: &LimitsText) -> Result<(u64, u64), ConfigError> {
        let any = |default| (0, u64::MAX, default);
        let (snapshots, log) = (raw.snapshot_bytes_per_second.as_ref(), raw.catch_up_bytes_per_second.as_ref());
        Ok((
            self.bytes("limits.snapshot_bytes_per_second", snapshots, any(SNAPSHOT_BYTES_PER_SECOND_DEFAULT))?,
            self.bytes("limits.catch_up_bytes_per_second", log, any(CATCH_UP_BYTES_PER_SECOND_DEFAULT))?,
        ))
    }

    fn config(&self, raw: ConfigText) -> Result<Config, ConfigError> {
        let cluster = self.cluster(&raw.cluster)?;
        let nodes = self.nodes(&raw.node)?;
        let ids = nodes.iter().map(|node| node.id.to_string()).collect::<Vec<_>>().join(", ");
        let member = |field, id: &Spanned<u64>| {
            let number = NodeId::new(*id.get_ref());
            if nodes.iter().any(|node| node.id == number) {
                return Ok(number);
            }
            Err(self.wrong(id.span(), field, format!("the id of one of the nodes ({ids})"), number))
        };
        let node = member("node_id", &raw.node_id)?;
        let leader = member("shard.leader", &raw.shard.leader)?;
        let listen = self.address("listen", &raw.listen, PortZero::Allowed)?;
        let tls = raw.tls.as_ref().map(|tls| self.tls(tls)).transpose()?;
        if tls.is_none() && !raw.insecure_plaintext {
            self.on_loopback("listen", &raw.listen)?;
            let others = raw
                .node
                .get_ref()
                .iter()
                .map(Spanned::get_ref)
                .filter(|other| other.id.get_ref() != raw.node_id.get_ref());
            others.map(|other| &other.address).try_for_each(|address| self.on_loopback("node.address", address))?;
        }
        let namespace = match &raw.shard.namespace {
            None => NAMESPACE_NAME.to_owned(),
            Some(name) if name.get_ref() == NAMESPACE_NAME => NAMESPACE_NAME.to_owned(),
            Some(name) => {
                let expected = format!("{NAMESPACE_NAME:?}: others stand under [[namespace]]");
                return Err(self.wrong(name.span(), "shard.namespace", expected, Quoted(name.get_ref())));
            }
        };
        let data_dir = self.beside("data_dir", &raw.data_dir, "a directory")?;
        let quorum = (QUORUM_SECONDS_MAX, QUORUM_LOST_AFTER_DEFAULT);
        let (scrub_bytes_per_second, scrub_pause) = self.scrub(&raw.log)?;
        let certificates = if tls.is_some() { Certificates::Shown } else { Certificates::Unknown };
        let grants = raw.grant.iter().map(|grant| self.grant(grant, cluster, certificates));
        let grants = grants.collect::<Result<_, _>>()?;
        let queue = (QUEUE_BYTES_MIN, QUEUE_BYTES_MAX, QUEUE_BYTES_DEFAULT as u64);
        let queue_bytes = self.bytes("limits.queue_bytes", raw.limits.queue_bytes.as_ref(), queue)?;
        let clients = (CLIENTS_BYTES_MIN, CLIENTS_BYTES_MAX, CLIENTS_BYTES_DEFAULT);
        let clients_bytes = self.bytes("limits.clients_bytes", raw.limits.clients_bytes.as_ref(), clients)?;
        let (snapshot_bytes, catch_up_bytes) = self.given_per_second(&raw.limits)?;
        Ok(Config {
            retention: self.retention(&raw.log)?,
            follower_log_bytes: self.bytes(
                "log.follower_bytes",
                raw.log.follower_bytes.as_ref(),
                (0, u64::MAX, FOLLOWER_LOG_BYTES_DEFAULT),
            )?,
            replay_bytes_max: self.bytes(
                "log.replay_bytes",
                raw.log.replay_bytes.as_ref(),
                (REPLAY_BYTES_MIN, u64::MAX, REPLAY_BYTES_DEFAULT),
            )?,
            scrub_bytes_per_second,
            scrub_pause,
            snapshot_bytes_per_second: snapshot_bytes,
            catch_up_bytes_per_second: catch_up_bytes,
            cluster,
            node,
            data_dir,
            listen,
            leader,
            namespace,
            namespaces: self.namespaces(&raw.namespace)?,
            nodes,
            segment_bytes: self.segment_bytes(raw.log.segment_bytes.as_ref())?,
            queue_bytes: usize::try_from(queue_bytes).unwrap_or(usize::MAX),
            clients_bytes,
            quorum_lost_after: self.seconds("limits.quorum_seconds", raw.limits.quorum_seconds.as_ref(), quorum)?,
            tls,
            insecure_plaintext: raw.insecure_plaintext,
            grants,
        })
    }

    fn segment_bytes(&self, value: Option<&Spanned<u64>>) -> Result<u64, ConfigError> {
        let bounds = (LOG_SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_DEFAULT);
        let bytes = self.bytes("log.segment_bytes", value, bounds)?;
        if !bytes.is_multiple_of(towline_wal::limits::BLOCK_BYTES) {
            let span = value.map_or(0..0, Spanned::span);
            let expected = format!("a multiple of {}", towline_wal::limits::BLOCK_BYTES);
            return Err(self.wrong(span, "log.segment_bytes", expected, bytes));
        }
        Ok(bytes)
    }

    /// How fast the log is read again, and how often.
    fn scrub(&self, log: &LogText) -> Result<(u64, Duration), ConfigError> {
        let bytes = (0, u64::MAX, SCRUB_BYTES_PER_SECOND_DEFAULT);
        let bytes = self.bytes("log.scrub_bytes_per_second", log.scrub_bytes_per_second.as_ref(), bytes)?;
        let pause = (SCRUB_PAUSE_SECONDS_MAX, SCRUB_PAUSE_DEFAULT);
        Ok((bytes, self.seconds("log.scrub_pause_seconds", log.scrub_pause_seconds.as_ref(), pause)?))
    }

    fn retention(&self, log: &LogText) -> Result<Retention, ConfigError> {
        let Retention::Bounded { bytes, age_seconds } = Policy::default().retention else {
            return Ok(Policy::default().retention);
        };
        let seconds = log.retention_seconds.as_ref().map_or(age_seconds, |seconds| *seconds.get_ref());
        let bytes = self.bytes("log.retention_bytes", log.retention_bytes.as_ref(), (0, u64::MAX, bytes))?;
        Ok(Retention::Bounded { bytes, age_seconds: seconds })
    }

    fn seconds(
        &self,
        field: &'static str,
        value: Option<&Spanned<u64>>,
        (most, default): (u64, Duration),
    ) -> Result<Duration, ConfigError> {
        let Some(value) = value else { return Ok(default) };
        let seconds = *value.get_ref();
        if (1..=most).contains(&seconds) {
            return Ok(Duration::from_secs(seconds));
        }
        Err(self.wrong(value.span(), field, format!("1 to {most} seconds"), seconds))
    }

    /// A path; a relative one is relative to the directory of the configuration.
    fn beside(&self, field: &'static str, value: &Spanned<PathBuf>, expected: &str) -> Result<PathBuf, ConfigError> {
        let path = value.get_ref();
        if path.as_os_str().is_empty() {
            return Err(self.wrong(value.span(), field, expected.into(), Quoted("")));
        }
        let beside = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(beside.map_or_else(|| path.clone(), |beside| beside.join(path)))
    }

    fn tls(&self, section: &Spanned<TlsText>) -> Result<TlsConfig, ConfigError> {
        if !cfg!(feature = "tls") {
            let expected = "a program built with the feature `tls`".to_owned();
            return Err(self.wrong(section.span(), "tls", expected, "one without it"));
        }
        let TlsText { certificate, key, authorities, revoked, reload_seconds } = section.get_ref();
        let file = |field, value| self.beside(field, value, "a file");
        let reload = (RELOAD_SECONDS_MAX, Duration::from_secs(RELOAD_SECONDS_DEFAULT));
        let reload = self.seconds("tls.reload_seconds", reload_seconds.as_ref(), reload)?;
        Ok(TlsConfig {
            certificate: file("tls.certificate", certificate)?,
            key: file("tls.key", key)?,
            authorities: file("tls.authorities", authorities)?,
            revoked: revoked.as_ref().map(|value| file("tls.revoked", value)).transpose()?,
            reload,
        })
    }

    /// Names but `localhost` count as reachable by others: what they resolve to is not known here, and may change.
    fn on_loopback(&self, field: &'static str, address: &Spanned<String>) -> Result<(), ConfigError> {
        let text = address.get_ref();
        let host = text.rsplit_once(':').map_or(text.as_str(), |(host, _)| host);
        let is_loopback = match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost",
        };
        if is_loopback {
            return Ok(());
        }
        let place = Place::of(self.path, self.text, address.span().start);
        Err(ConfigError::Plaintext { place, field, address: text.clone() })
    }

    fn cluster(&self, value: &Spanned<String>) -> Result<ClusterId, ConfigError> {
        let wrong = |expected: &str| self.wrong(value.span(), "cluster", expected.into(), Quoted(value.get_ref()));
        let uuid = uuid::Uuid::parse_str(value.get_ref())
            .map_err(|_| wrong("a uuid, such as \"0193aabb-ccdd-7eff-8000-010203040506\""))?;
        // All zero is how a client says that it does not know its cluster yet.
        if uuid.is_nil() {
            return Err(wrong("a uuid that is not all zero"));
        }
        Ok(ClusterId::new(*uuid.as_bytes()))
    }

    fn nodes(&self, list: &Spanned<Vec<Spanned<NodeText>>>) -> Result<Vec<NodeAddress>, ConfigError> {
        let mut nodes: Vec<NodeAddress> = Vec::new();
        let count = list.get_ref().len();
        if count == 0 || count > VOTERS_MAX {
            return Err(self.wrong(list.span(), "node", format!("1 to {VOTERS_MAX} nodes"), count));
        }
        for entry in list.get_ref() {
            let NodeText { id, address } = entry.get_ref();
            let number = NodeId::new(*id.get_ref());
            if number.get() == 0 {
                return Err(self.wrong(id.span(), "node.id", "a number from 1 on".into(), 0));
            }
            if nodes.iter().any(|node| node.id == number) {
                let expected = "an id that no other node has".into();
                return Err(self.wrong(id.span(), "node.id", expected, format_args!("{number} again")));
            }
            let text = self.address("node.address", address, PortZero::Refused)?;
            if nodes.iter().any(|node| node.address == text) {
                let expected = "an address that no other node has".into();
                return Err(self.wrong(address.span(), "node.address", expected, format_args!("{text:?} again")));
            }
            nodes.push(NodeAddress { id: number, address: text });
        }
        Ok(nodes)
    }

    /// `host:port`; names are not resolved here: that may need a network that is not up yet.
    fn address(&self, field: &'static str, value: &Spanned<String>, zero: PortZero) -> Result<String, ConfigError> {
        let text = value.get_ref();
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        let fits = match port {
            // An address of numbers must be one (of IPv6, in brackets).
            Some(Ok(_)) if text.starts_with('[') || text.matches(':').count() > 1 => text.parse::<SocketAddr>().is_ok(),
            Some(Ok(port)) => port != 0 || zero == PortZero::Allowed,
            Some(Err(_)) | None => false,
        };
        if fits {
            return Ok(text.clone());
        }
        let expected = match zero {
            PortZero::Allowed => "HOST:PORT (port 0: any free one)",
            PortZero::Refused => "HOST:PORT, where the other nodes find it",
        };
        Err(self.wrong(value.span(), field, expected.into(), Quoted(text)))
    }

    fn bytes(
        &self,
        field: &'static str,
        value: Option<&Spanned<u64>>,
        (least, most, default): (u64, u64, u64),
    ) -> Result<u64, ConfigError> {
        let Some(value) = value else { return Ok(default) };
        let bytes = *value.get_ref();
        if (least..=most).contains(&bytes) {
            return Ok(bytes);
        }
        Err(self.wrong(value.span(), field, format!("{least} to {most} bytes"), bytes))
    }

    pub(super) fn wrong(
        &self,
        span: Range<usize>,
        field: &'static str,
        expected: String,
        found: impl fmt::Display,
    ) -> ConfigError {
        let place = Place::of(self.path, self.text, span.start);
        ConfigError::Field { place, field, expected, found: found.to_string() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PortZero {
    Allowed,
    Refused,
}

pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
