//! A mixed load, and what the disk has of it: bytes written for each byte of the user's, bytes kept for each live one.
//!
//! The engine is loaded for a time; bare RocksDB, with its own log, then gets the very same operations, producer by
//! producer. Each producer has keys and streams of its own, so that it knows what is live.

use crate::engine::{Bare, Engine, together};
use crate::process::{disk_bytes, written_bytes, written_bytes_at_rest};
use crate::producers::{noise, payload};
use crate::report::{mebibytes, rate, ratio, seconds, table};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use comfy_table::Table;
use rocksdb::{WriteBatch, WriteOptions};
use std::path::Path;
use std::time::{Duration, Instant};
use towline::model::{Expect, Read};

const PRODUCERS: u64 = 64;
/// Of each producer: 262,144 keys in all, 1,024 that are overwritten often, 4,096 streams.
const KEYS: u64 = 4096;
const HOT_KEYS: u64 = 16;
const STREAMS: u64 = 64;
const VALUE_BYTES: usize = 1024;
const EVENT_BYTES: usize = 256;
/// Of a hundred operations; the rest are reads.
const PUTS: u64 = 30;
const HOT_PUTS: u64 = 10;
const DELETES: u64 = 5;
const APPENDS: u64 = 35;

/// What a mixed load is put on. Writes are durable when they return.
trait Target: Sync {
    fn put(&self, key: Bytes, value: Bytes) -> Result<()>;
    fn delete(&self, key: Bytes) -> Result<()>;
    /// The event becomes this version of the stream.
    fn append(&self, stream: Bytes, version: u64, event: Bytes) -> Result<()>;
    fn is_there(&self, key: &[u8]) -> Result<bool>;
}

impl Target for Engine {
    fn put(&self, key: Bytes, value: Bytes) -> Result<()> {
        self.space.put(key, value)?.wait()?;
        Ok(())
    }

    fn delete(&self, key: Bytes) -> Result<()> {
        self.space.delete(key)?.wait()?;
        Ok(())
    }

    fn append(&self, stream: Bytes, version: u64, event: Bytes) -> Result<()> {
        let written = self.space.append(stream, Expect::Any, event)?.wait()?;
        ensure!(written.outcome.applied() == Ok(version), "a stream has one writer");
        Ok(())
    }

    fn is_there(&self, key: &[u8]) -> Result<bool> {
        Ok(self.space.get(key, Read::Linearizable)?.is_some())
    }
}

impl Target for Bare {
    fn put(&self, key: Bytes, value: Bytes) -> Result<()> {
        Ok(self.db.put_opt(key, value, &synced())?)
    }

    fn delete(&self, key: Bytes) -> Result<()> {
        Ok(self.db.delete_opt(key, &synced())?)
    }

    /// What a program would write by hand: the event, and the version of the stream. It need not look that one up.
    fn append(&self, stream: Bytes, version: u64, event: Bytes) -> Result<()> {
        self.append_many([(stream, version, event)])
    }

    fn is_there(&self, key: &[u8]) -> Result<bool> {
        Ok(self.db.get_pinned(key)?.is_some())
    }
}

impl Bare {
    /// Events that become these versions of their streams, in one durable write.
    pub(crate) fn append_many(&self, events: impl IntoIterator<Item = (Bytes, u64, Bytes)>) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (stream, version, event) in events {
            let place = [&b"event/"[..], &stream, b"/", format!("{version:020}").as_bytes()].concat();
            batch.put(place, event);
            batch.put([&b"head/"[..], &stream].concat(), version.to_string());
        }
        Ok(self.db.write_opt(batch, &synced())?)
    }
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// One producer of the load, with what it knows of its keys and streams. From its number alone it does the same each time.
struct Producer {
    number: u64,
    chance: u64,
    keys: Vec<bool>,
    versions: Vec<u64>,
    operations: u64,
    written: u64,
    live: u64,
}

impl Producer {
    fn new(number: u64) -> Self {
        let keys = vec![false; (KEYS + HOT_KEYS) as usize];
        let versions = vec![0; STREAMS as usize];
        let chance = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { number, chance, keys, versions, operations: 0, written: 0, live: 0 }
    }

    /// One of so many, by xorshift.
    fn one_of(&mut self, many: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance >> 11) % many
    }

    fn step(&mut self, target: &dyn Target, pool: &Bytes) -> Result<()> {
        let what = self.one_of(100);
        self.operations += 1;
        let number = self.operations * PRODUCERS + self.number;
        if what < PUTS {
            let index = self.one_of(KEYS);
            self.put(target, index, payload(pool, number, VALUE_BYTES))
        } else if what < PUTS + HOT_PUTS {
            let index = KEYS + self.one_of(HOT_KEYS);
            self.put(target, index, payload(pool, number, VALUE_BYTES))
        } else if what < PUTS + HOT_PUTS + DELETES {
            let index = self.one_of(KEYS);
            let key = self.key(index);
            self.written += key.len() as u64;
            if std::mem::replace(&mut self.keys[index as usize], false) {
                self.live -= (key.len() + VALUE_BYTES) as u64;
            }
            target.delete(key)
        } else if what < PUTS + HOT_PUTS + DELETES + APPENDS {
            let index = self.one_of(STREAMS);
            let stream = Bytes::from(format!("stream-{:02}-{index:04}", self.number));
            let bytes = (stream.len() + EVENT_BYTES) as u64;
            self.written += bytes;
            self.live += bytes;
            let version = &mut self.versions[index as usize];
            *version += 1;
            target.append(stream, *version, payload(pool, number, EVENT_BYTES))
        } else {
            let index = self.one_of(KEYS);
            let found = target.is_there(&self.key(index))?;
            ensure!(found == self.keys[index as usize], "a key is there when it was put, and only then");
            Ok(())
        }
    }

    fn put(&mut self, target: &dyn Target, index: u64, value: Bytes) -> Result<()> {
        let key = self.key(index);
        let bytes = (key.len() + value.len()) as u64;
        self.written += bytes;
        if !std::mem::replace(&mut self.keys[index as usize], true) {
            self.live += bytes;
        }
        target.put(key, value)
    }

    fn key(&self, index: u64) -> Bytes {
        Bytes::from(format!("key-{:02}-{index:04}", self.number))
    }
}

/// How much each producer does.
enum Until<'a> {
    Passed(Duration),
    Done(&'a [u64]),
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn load(target: &dyn Target, until: &Until<'_>) -> Result<(Duration, Vec<Producer>)> {
    let (pool, start) = (noise(), Instant::now());
    together(PRODUCERS, |number| {
        let mut producer = Producer::new(number);
        loop {
            let is_done = match until {
                Until::Passed(time) => start.elapsed() >= *time,
                Until::Done(operations) => producer.operations >= operations[usize::try_from(number)?],
            };
            if is_done {
                return Ok(producer);
            }
            producer.step(target, &pool)?;
        }
    })
}

/// What the disk had of one store's load, once nothing more went on in the background.
struct Found {
    took: Duration,
    operations: Vec<u64>,
    /// The user's keys, values, streams and events: of all writes, and of what is live at the end.
    user: u64,
    live: u64,
    /// By the process, to the device.
    written: u64,
    /// Of that, in groups of the log.
    log: Option<u64>,
    /// None: RocksDB does not know any more.
    tables: Option<Tables>,
    /// Bytes on the disk: log, state.
    log_disk: u64,
    state_disk: u64,
}

/// Loads the engine for so long, then bare RocksDB with the same operations: as a table.
///
/// # Errors
/// A write or read fails, or the system does not tell what was written.
pub fn measure(place: impl Fn() -> Result<tempfile::TempDir>, time: Duration) -> Result<Table> {
    let directory = place()?;
    let before = written_bytes()?;
    let engine = Engine::open(directory.path())?;
    let (took, producers) = load(&engine, &Until::Passed(time))?;
    let written = written_bytes_at_rest()? - before;
    let log = Some(engine.node.stats()?.log.group_bytes);
    let (state, wal) = (directory.path().join("state"), directory.path().join("wal"));
    let (tables, log_disk, state_disk) = (Tables::of(&state)?, disk_bytes(&wal)?, disk_bytes(&state)?);
    engine.close()?;
    drop(directory);
    let ours = found(took, &producers, written, log, tables, log_disk, state_disk);

    let directory = place()?;
    let before = written_bytes()?;
    let bare = Bare::open(directory.path())?;
    let (took, producers) = load(&bare, &Until::Done(&ours.operations))?;
    let written = written_bytes_at_rest()? - before;
    let (log_disk, state_disk) = logs_and_rest(directory.path())?;
    let theirs = found(took, &producers, written, None, Tables::of(directory.path())?, log_disk, state_disk);
    ensure!((ours.user, ours.live) == (theirs.user, theirs.live), "both had the same load");
    Ok(show(&ours, &theirs))
}

fn found(
    took: Duration,
    producers: &[Producer],
    written: u64,
    log: Option<u64>,
    tables: Option<Tables>,
    log_disk: u64,
    state_disk: u64,
) -> Found {
    let operations = producers.iter().map(|producer| producer.operations).collect();
    let user = producers.iter().map(|producer| producer.written).sum();
    let live = producers.iter().map(|producer| producer.live).sum();
    Found { took, operations, user, live, written, log, tables, log_disk, state_disk }
}

/// Bytes on the disk of bare RocksDB's own logs, and of the rest.
fn logs_and_rest(directory: &Path) -> Result<(u64, u64)> {
    let all = disk_bytes(directory)?;
    let mut logs = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "log") {
            logs += entry.metadata().map_or(0, |found| found.len());
        }
    }
    Ok((logs, all.saturating_sub(logs)))
}

/// Bytes that RocksDB wrote to tables, as the log of its doings says, which it keeps beside them.
#[derive(Debug, Default, Clone, Copy)]
struct Tables {
    flushed: u64,
    compacted: u64,
}

impl Tables {
    /// None when the first of its logs is gone: it keeps the newest only.
    fn of(directory: &Path) -> Result<Option<Self>> {
        let (mut all, mut compacted, mut is_whole) = (0, 0, false);
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name != "LOG" && !name.starts_with("LOG.old") {
                continue;
            }
            for line in std::fs::read_to_string(&path)?.lines() {
                // One of the first things that it says.
                is_whole |= line.contains("Creating manifest 1");
                let Some((_, event)) = line.split_once("EVENT_LOG_v1 ") else { continue };
                match text(event, "event") {
                    Some("table_file_creation") => all += number(event, "file_size")?,
                    Some("compaction_finished") => compacted += number(event, "total_output_size")?,
                    _ => {}
                }
            }
        }
        Ok(is_whole.then_some(Self { flushed: all - compacted, compacted }))
    }
}

/// The text by a name in one line of JSON, as RocksDB writes it.
fn text<'a>(event: &'a str, name: &str) -> Option<&'a str> {
    let (_, behind) = event.split_once(&format!("\"{name}\": \""))?;
    behind.split_once('"').map(|(text, _)| text)
}

fn number(event: &str, name: &str) -> Result<u64> {
    let (_, behind) = event.split_once(&format!("\"{name}\": ")).with_context(|| format!("no {name} in {event}"))?;
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    Ok(digits.parse()?)
}

fn show(ours: &Found, theirs: &Found) -> Table {
    let operations: u64 = ours.operations.iter().sum();
    let of_user = |of: &Found, bytes: u64| ratio(bytes, of.user);
    let of_live = |of: &Found, bytes: u64| ratio(bytes, of.live);
    let of_tables = |of: &Found, bytes: fn(&Tables) -> u64| {
        of.tables.as_ref().map_or_else(|| "unknown".to_owned(), |tables| of_user(of, bytes(tables)))
    };
    // Of RocksDB by itself only the tables are known: the rest is nearly all its log.
    let rest = |of: &Found| {
        let tables = of.tables.map_or(0, |tables| tables.flushed + tables.compacted);
        of.written.saturating_sub(of.log.unwrap_or(0) + tables)
    };
    let line = |what: &str, show: &dyn Fn(&Found) -> String| [what.to_owned(), show(ours), show(theirs)];
    let lines = vec![
        line("operations", &|_| operations.to_string()),
        line("took", &|of| seconds(of.took)),
        line("operations a second", &|of| rate(operations, of.took)),
        line("the user wrote", &|of| mebibytes(of.user)),
        line("live at the end", &|of| mebibytes(of.live)),
        line("the process wrote", &|of| mebibytes(of.written)),
        line("write amplification", &|of| of_user(of, of.written)),
        line("  groups of the log", &|of| of.log.map_or_else(String::new, |log| of_user(of, log))),
        line("  flushes", &|of| of_tables(of, |tables| tables.flushed)),
        line("  compactions", &|of| of_tables(of, |tables| tables.compacted)),
        line("  the rest (RocksDB: its log; engine: segments filled ahead)", &|of| of_user(of, rest(of))),
        line("space amplification", &|of| of_live(of, of.log_disk + of.state_disk)),
        line("  log", &|of| of_live(of, of.log_disk)),
        line("  state", &|of| of_live(of, of.state_disk)),
    ];
    table(["mixed load", "engine", "bare RocksDB"], lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rocksdb_wrote_to_tables_is_told_by_its_own_log() {
        let directory = tempfile::tempdir().unwrap();
        let bare = Bare::open(directory.path()).unwrap();
        for number in 0_u64..100 {
            bare.db.put(number.to_string(), payload(&noise(), number, 1000)).unwrap();
        }
        bare.db.flush().unwrap();
        let tables = Tables::of(directory.path()).unwrap().unwrap();
        assert!((100_000..120_000).contains(&tables.flushed) && tables.compacted == 0, "{tables:?}");
        bare.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        bare.db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        let again = Tables::of(directory.path()).unwrap().unwrap();
        assert!(again.flushed == tables.flushed && again.compacted >= 100_000, "{again:?}");
    }
}
