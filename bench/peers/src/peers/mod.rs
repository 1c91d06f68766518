//! The logs that are compared, behind one trait: ours, the plain log thread, and what others have published.

mod fjall;
mod okaywal;
mod ours;
mod plain;
mod raft_engine;
mod rocksdb;

use anyhow::Result;
use std::path::Path;

pub(crate) use ours::{Ours, Producer, bytes_of_release_lag};

/// An open log.
pub(crate) trait DurableLog: Send + Sync {
    /// One of its producers; each has a number of its own.
    fn producer(&self, number: u64) -> Result<Box<dyn Append + '_>>;

    /// Bytes written for each byte of payload, where the log says so.
    fn written_per_byte(&self) -> Option<f64> {
        None
    }

    /// Syncs for each record, where the log says so.
    fn syncs_per_record(&self) -> Option<f64> {
        None
    }
}

/// A thread's way into a log.
pub(crate) trait Append: Send {
    /// Returns when the record is durable.
    fn append(&mut self, record: &[u8]) -> Result<()>;
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Ours,
    Plain,
    RaftEngine,
    RaftEnginePrefilled,
    Okaywal,
    RocksDb,
    Fjall,
}

impl Peer {
    /// Ours first, then the bar, then the published ones.
    pub(crate) const ALL: [Self; 7] = [
        Self::Ours,
        Self::Plain,
        Self::RaftEngine,
        Self::RaftEnginePrefilled,
        Self::Okaywal,
        Self::RocksDb,
        Self::Fjall,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "towline-wal",
            Self::Plain => "plain log thread",
            Self::RaftEngine => "raft-engine 0.4.2",
            Self::RaftEnginePrefilled => "raft-engine 0.4.2, prefilled",
            Self::Okaywal => "okaywal 0.3.1",
            Self::RocksDb => "RocksDB 11.8 WAL",
            Self::Fjall => "fjall 3.1",
        }
    }

    /// Whether somebody published it as a log to use.
    pub(crate) const fn is_published(self) -> bool {
        !matches!(self, Self::Ours | Self::Plain)
    }

    /// Opens the log in a directory that other logs may share, for so many producers.
    pub(crate) fn open(self, directory: &Path, producers: u64) -> Result<Box<dyn DurableLog>> {
        Ok(match self {
            Self::Ours => Box::new(Ours::open(directory, producers)?),
            Self::Plain => Box::new(crate::plain::PlainLog::open(directory)?),
            Self::RaftEngine => Box::new(raft_engine::open(directory, false)?),
            Self::RaftEnginePrefilled => Box::new(raft_engine::open(directory, true)?),
            Self::Okaywal => Box::new(okaywal::open(directory)?),
            Self::RocksDb => Box::new(rocksdb::open(directory)?),
            Self::Fjall => Box::new(fjall::open(directory)?),
        })
    }
}
