//! Keys and entries of the state, laid out by hand.
//!
//! Keys begin with the namespace and then the user's key, not with the shard: a split or merge moves no data.
//! RocksDB orders keys as bytes, so numbers in keys are written most significant byte first (the one place).
//!
//! ```text
//! values   namespace(4) key                          -> 1 (format)  version u64  value
//! events   namespace(4) stream, escaped  version(8)  -> 1 (format)  LSN u64  metadata length u32  metadata  event
//! heads    namespace(4) stream                       -> 1 (format)  version u64  first version kept u64
//! sessions namespace(4) log(16) 0                    -> 1 (format)  sessions that are open u64
//!          namespace(4) log(16) 1 session(16)        -> 1 (format)  opened at LSN u64  last used at LSN u64  ack-low u64
//!          namespace(4) log(16) 2 session(16) number -> 1 (format)  version u64  term u32  LSN u64  outcome u8  u32  u64
//!                                                      fingerprint u64
//!          namespace(4) log(16) 3                    -> 1 (format)  LSN u64: what was rejected before it is forgotten
//!          namespace(4) log(16) 4                    -> 1 (format)  session u128: where the next `Trim` looks on
//! rejected namespace(4) log(16) LSN(8)               -> 1 (format)
//! meta     shard(8) 1, the applied position          -> 1 (format)  log u128  version u64  term u32  LSN u64  chain u64
//!                                                      (format 2: of the snapshot that is replacing the state; see `replace`)
//!          shard(8) 2, the last `EpochStart`         -> 1 (format)  LSN u64  the control record, an envelope
//!          shard(8) 3 name, a follower of the feed   -> 1 (format)  version u64  term u32  LSN u64  microseconds u64
//!                                                      budget: bytes u64, seconds u64
//! ```
//!
//! Numbers in entries are little-endian. Entries have no checksum of their own: RocksDB's blocks have one, and what
//! a read finds wrong is an error of the store. An LSN counts within one log, so a rejected record's key names the
//! log: two shards of a namespace would otherwise mark each other's records.
//!
//! In an event's key each 0x00 of the stream's name becomes 0x00 0xFF, and 0x00 0x00 ends it: so no name is the
//! prefix of another's key, and bytes are bytes (faults U6).

use super::follower::FollowerEntry;
use super::sessions::{Executed, Session};
use super::store::{Family, StoreError};
use crate::model::{Chain, Epoch, LogId, LogPosition, Lsn, NamespaceId, Outcome, Rejection, ShardDescriptor, ShardId};

/// What is known of a stream without reading its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// The last event's number; 0 before the first.
    pub(super) version: u64,
    /// The first event kept: reads begin there, not among the marks of those that were trimmed.
    pub(super) first: u64,
}

/// The format of every entry of this release.
const FORMAT: u8 = 1;

/// Most significant byte first, so that byte order is number order.
const fn ordered_u64(number: u64) -> [u8; 8] {
    number.swap_bytes().to_le_bytes()
}

const fn ordered_u32(number: u32) -> [u8; 4] {
    number.swap_bytes().to_le_bytes()
}

/// The key of a value or of a stream's head.
pub(super) fn user_key(namespace: NamespaceId, key: &[u8]) -> Vec<u8> {
    written(|out| write_user_key(out, namespace, key))
}

/// The same, behind what is there.
pub(super) fn write_user_key(out: &mut Vec<u8>, namespace: NamespaceId, key: &[u8]) {
    out.extend_from_slice(&ordered_u32(namespace.get()));
    out.extend_from_slice(key);
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// Bytes of a key that is put together without an allocation.
const SHORT_KEY_BYTES: usize = 128;

/// Shows the key of a value or of a stream's head.
pub(super) fn with_user_key<T>(namespace: NamespaceId, key: &[u8], show: impl FnOnce(&[u8]) -> T) -> T {
    let mut short = [0; SHORT_KEY_BYTES];
    match short.get_mut(..key.len().saturating_add(4)).and_then(<[u8]>::split_first_chunk_mut::<4>) {
        Some((front, rest)) => {
            *front = ordered_u32(namespace.get());
            rest.copy_from_slice(key);
            show(short.get(..key.len().saturating_add(4)).unwrap_or_default())
        }
        None => show(&user_key(namespace, key)),
    }
}

/// The first key behind all of a namespace, in every family whose keys begin with one.
pub(super) fn after_namespace(namespace: NamespaceId) -> Vec<u8> {
    match namespace.get().checked_add(1) {
        Some(next) => ordered_u32(next).to_vec(),
        // Longer than any key may be.
        None => vec![0xff; 4 + crate::model::limits::KEY_BYTES_MAX + 1],
    }
}

/// The user's part of a value's key.
pub(super) fn user_part(key: &[u8]) -> Result<&[u8], StoreError> {
    key.get(4..).ok_or(StoreError::Entry { family: Family::Values.name(), found: 0, bytes: key.len() })
}

/// What all events of a stream begin with.
pub(super) fn stream_prefix(namespace: NamespaceId, stream: &[u8]) -> Vec<u8> {
    written(|out| write_stream_prefix(out, namespace, stream))
}

fn write_stream_prefix(out: &mut Vec<u8>, namespace: NamespaceId, stream: &[u8]) {
    out.extend_from_slice(&ordered_u32(namespace.get()));
    for (index, part) in stream.split(|byte| *byte == 0).enumerate() {
        if index > 0 {
            out.extend_from_slice(&[0, 0xff]);
        }
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&[0, 0]);
}

/// The key of one event.
pub(super) fn event_key(namespace: NamespaceId, stream: &[u8], version: u64) -> Vec<u8> {
    written(|out| write_event_key(out, namespace, stream, version))
}

/// The same, behind what is there.
pub(super) fn write_event_key(out: &mut Vec<u8>, namespace: NamespaceId, stream: &[u8], version: u64) {
    write_stream_prefix(out, namespace, stream);
    out.extend_from_slice(&ordered_u64(version));
}

/// The version in an event's key, behind its stream's prefix.
pub(super) fn version_in(prefix: &[u8], key: &[u8]) -> Option<u64> {
    let rest = key.strip_prefix(prefix)?;
    Some(u64::from_le_bytes(*rest.first_chunk::<8>()?).swap_bytes()).filter(|_| rest.len() == 8)
}

/// Where a shard's entries of a family lie: the first key, and the first beyond. Of [`Family::Meta`] all that is kept of it.
pub(super) fn bounds(shard: &ShardDescriptor, log: LogId, family: Family) -> (Vec<u8>, Vec<u8>) {
    let namespace = shard.namespace;
    let to_the_end = || after_namespace(namespace);
    match family {
        Family::Values | Family::Heads => {
            let end = if shard.end.is_empty() { to_the_end() } else { user_key(namespace, &shard.end) };
            (user_key(namespace, &shard.start), end)
        }
        Family::Events => {
            // Events lie where their streams' names do, and none of another stream between a name's prefix and its events.
            let start = &shard.start;
            let start = if start.is_empty() { user_key(namespace, &[]) } else { stream_prefix(namespace, start) };
            (start, if shard.end.is_empty() { to_the_end() } else { stream_prefix(namespace, &shard.end) })
        }
        Family::Sessions | Family::Rejected => {
            let end = match log.as_u128().checked_add(1) {
                Some(next) => of_log(namespace, LogId::new(next)),
                None => to_the_end(),
            };
            (of_log(namespace, log), end)
        }
        Family::Meta => shard_bounds(shard.shard),
    }
}

/// What the keys of everything begin with that is one log's.
fn of_log(namespace: NamespaceId, log: LogId) -> Vec<u8> {
    [&ordered_u32(namespace.get())[..], &log.as_u128().swap_bytes().to_le_bytes()].concat()
}

/// The key of a rejected record.
pub(super) fn rejected_key(namespace: NamespaceId, log: LogId, lsn: Lsn) -> Vec<u8> {
    [&of_log(namespace, log)[..], &ordered_u64(lsn.get())].concat()
}

/// The key of a shard's applied position.
pub(super) fn applied_key(shard: ShardId) -> Vec<u8> {
    [&ordered_u64(shard.get())[..], &[1]].concat()
}

/// The LSN in a rejected record's key.
pub(super) fn rejected_lsn(key: &[u8]) -> Option<Lsn> {
    let (_, lsn) = key.split_last_chunk::<8>()?;
    Some(Lsn::new(u64::from_le_bytes(*lsn).swap_bytes()))
}

/// The key of how many sessions a log knows.
pub(super) fn session_count_key(namespace: NamespaceId, log: LogId) -> Vec<u8> {
    [&of_log(namespace, log)[..], &[0]].concat()
}

/// The key of a session.
pub(super) fn session_key(namespace: NamespaceId, log: LogId, session: u128) -> Vec<u8> {
    [&of_log(namespace, log)[..], &[1], &session.swap_bytes().to_le_bytes()].concat()
}

/// The session in its key.
pub(super) fn session_in(key: &[u8]) -> Option<u128> {
    let (front, session) = key.split_last_chunk::<16>()?;
    (front.len() == 21 && front.last() == Some(&1)).then(|| u128::from_le_bytes(*session).swap_bytes())
}

/// The key of what came of a request.
pub(super) fn result_key(namespace: NamespaceId, log: LogId, session: u128, number: u64) -> Vec<u8> {
    [&of_log(namespace, log)[..], &[2], &session.swap_bytes().to_le_bytes(), &ordered_u64(number)].concat()
}

/// The key of where a log's rejected records are known from.
pub(super) fn trimmed_key(namespace: NamespaceId, log: LogId) -> Vec<u8> {
    [&of_log(namespace, log)[..], &[3]].concat()
}

/// The key of where a log's next trim looks on.
pub(super) fn trim_key(namespace: NamespaceId, log: LogId) -> Vec<u8> {
    [&of_log(namespace, log)[..], &[4]].concat()
}

/// The session with which a trim goes on.
pub(super) fn trim_entry(session: u128) -> Vec<u8> {
    [&[FORMAT][..], &session.to_le_bytes()].concat()
}

/// The session in such an entry.
pub(super) fn read_trim(entry: &[u8]) -> Result<u128, StoreError> {
    let mut fields = Fields::of(Family::Sessions, entry)?;
    let session = fields.u128()?;
    fields.end()?;
    Ok(session)
}

/// An entry of one number.
pub(super) fn number_entry(number: u64) -> Vec<u8> {
    [&[FORMAT][..], &number.to_le_bytes()].concat()
}

/// The number in an entry.
pub(super) fn read_number(entry: &[u8]) -> Result<u64, StoreError> {
    let mut fields = Fields::of(Family::Sessions, entry)?;
    let number = fields.u64()?;
    fields.end()?;
    Ok(number)
}

/// A session's entry.
pub(super) fn session_entry(session: &Session) -> Vec<u8> {
    let Session { opened, used, ack_low } = session;
    [&[FORMAT][..], &opened.get().to_le_bytes(), &used.get().to_le_bytes(), &ack_low.to_le_bytes()].concat()
}

/// The session in an entry.
pub(super) fn read_session(entry: &[u8]) -> Result<Session, StoreError> {
    let mut fields = Fields::of(Family::Sessions, entry)?;
    let (opened, used) = (Lsn::new(fields.u64()?), Lsn::new(fields.u64()?));
    let session = Session { opened, used, ack_low: fields.u64()? };
    fields.end()?;
    Ok(session)
}

/// What came of a request, and where.
pub(super) fn result_entry(executed: &Executed) -> Vec<u8> {
    let (code, index, value) = match executed.outcome {
        Outcome::Applied { version } => (0_u8, 0_u32, version),
        Outcome::Rejected(Rejection::Precondition { index, actual }) => (1, index, actual),
        Outcome::Rejected(Rejection::StreamVersion { index, actual }) => (2, index, actual),
        // Not what came of a request: it may still be executed.
        Outcome::Rejected(_) => (u8::MAX, 0, 0),
    };
    let mut entry = vec![FORMAT];
    entry.extend_from_slice(&executed.epoch.version.to_le_bytes());
    entry.extend_from_slice(&executed.epoch.term.to_le_bytes());
    entry.extend_from_slice(&executed.lsn.get().to_le_bytes());
    entry.push(code);
    entry.extend_from_slice(&index.to_le_bytes());
    entry.extend_from_slice(&value.to_le_bytes());
    entry.extend_from_slice(&executed.fingerprint.to_le_bytes());
    entry
}

/// What came of a request, in its entry.
pub(super) fn read_result(entry: &[u8]) -> Result<Executed, StoreError> {
    let mut fields = Fields::of(Family::Sessions, entry)?;
    let epoch = Epoch { version: fields.u64()?, term: fields.u32()? };
    let lsn = Lsn::new(fields.u64()?);
    let code = fields.take(1)?;
    let (index, value) = (fields.u32()?, fields.u64()?);
    let outcome = match code {
        [0] => Outcome::Applied { version: value },
        [1] => Outcome::Rejected(Rejection::Precondition { index, actual: value }),
        [2] => Outcome::Rejected(Rejection::StreamVersion { index, actual: value }),
        _ => return Err(fields.bad()),
    };
    let fingerprint = fields.u64()?;
    fields.end()?;
    Ok(Executed { epoch, lsn, outcome, fingerprint })
}

/// All that is kept of a shard in `Meta`: the first key, and the first beyond.
pub(super) fn shard_bounds(shard: ShardId) -> (Vec<u8>, Vec<u8>) {
    let start = ordered_u64(shard.get()).to_vec();
    let end = ordered_u64(shard.get().saturating_add(1)).to_vec();
    (start, end)
}

/// The key of a shard's last `EpochStart`.
pub(super) fn epoch_start_key(shard: ShardId) -> Vec<u8> {
    [&ordered_u64(shard.get())[..], &[2]].concat()
}

/// A value's entry, behind what is there.
pub(super) fn write_value(out: &mut Vec<u8>, version: Lsn, value: &[u8]) {
    out.push(FORMAT);
    out.extend_from_slice(&version.get().to_le_bytes());
    out.extend_from_slice(value);
}

/// The version and value in an entry.
pub(super) fn read_value(entry: &[u8]) -> Result<(u64, &[u8]), StoreError> {
    let mut fields = Fields::of(Family::Values, entry)?;
    let version = fields.u64()?;
    Ok((version, fields.rest))
}

/// A stream's head, behind what is there.
pub(super) fn write_head(out: &mut Vec<u8>, head: Head) {
    out.push(FORMAT);
    out.extend_from_slice(&head.version.to_le_bytes());
    out.extend_from_slice(&head.first.to_le_bytes());
}

/// The head in an entry.
pub(super) fn read_head(entry: &[u8]) -> Result<Head, StoreError> {
    let mut fields = Fields::of(Family::Heads, entry)?;
    let head = Head { version: fields.u64()?, first: fields.u64()? };
    fields.end()?;
    Ok(head)
}

/// An event's entry, behind what is there.
pub(super) fn write_event(out: &mut Vec<u8>, lsn: Lsn, metadata: &[u8], value: &[u8]) {
    out.push(FORMAT);
    out.extend_from_slice(&lsn.get().to_le_bytes());
    out.extend_from_slice(&u32::try_from(metadata.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(metadata);
    out.extend_from_slice(value);
}

/// LSN, metadata and value of an event.
pub(super) fn read_event(entry: &[u8]) -> Result<(u64, &[u8], &[u8]), StoreError> {
    let mut fields = Fields::of(Family::Events, entry)?;
    let lsn = fields.u64()?;
    let length = fields.u32()? as usize;
    let metadata = fields.take(length)?;
    Ok((lsn, metadata, fields.rest))
}

/// The entry of a rejected record: that it is there is all.
pub(super) fn rejected_entry() -> Vec<u8> {
    vec![FORMAT]
}

/// The applied position of a shard.
pub(super) fn applied_entry(log: LogId, applied: LogPosition) -> Vec<u8> {
    let mut entry = vec![FORMAT];
    entry.extend_from_slice(&log.as_u128().to_le_bytes());
    entry.extend_from_slice(&applied.epoch.version.to_le_bytes());
    entry.extend_from_slice(&applied.epoch.term.to_le_bytes());
    entry.extend_from_slice(&applied.lsn.get().to_le_bytes());
    entry.extend_from_slice(&applied.chain.get().to_le_bytes());
    entry
}

/// Log and applied position in an entry.
pub(super) fn read_applied(entry: &[u8]) -> Result<(LogId, LogPosition), StoreError> {
    let mut fields = Fields::of(Family::Meta, entry)?;
    let log = LogId::new(fields.u128()?);
    let epoch = Epoch { version: fields.u64()?, term: fields.u32()? };
    let position = LogPosition { epoch, lsn: Lsn::new(fields.u64()?), chain: Chain::new(fields.u64()?) };
    fields.end()?;
    Ok((log, position))
}

/// The format of a shard's applied position while what is in the state is being replaced: then it is of no position. A release
/// that does not know it does not read it, and so does not open the state.
#[cfg(any(feature = "node", test))]
const REPLACING: u8 = 2;

/// Stands for the applied position, while a snapshot at this one replaces what there is.
#[cfg(any(feature = "node", test))]
pub(super) fn replacing_entry(log: LogId, at: LogPosition) -> Vec<u8> {
    let mut entry = applied_entry(log, at);
    if let Some(format) = entry.first_mut() {
        *format = REPLACING;
    }
    entry
}

/// Log and position of the snapshot that replaces what there is, if this entry says that one does.
#[cfg(any(feature = "node", test))]
pub(super) fn read_replacing(entry: &[u8]) -> Result<Option<(LogId, LogPosition)>, StoreError> {
    match entry.split_first() {
        Some((&REPLACING, rest)) => read_applied(&[&[FORMAT], rest].concat()).map(Some),
        _ => Ok(None),
    }
}

/// The key of a follower in `Meta`, one for each shard; without a name what all of a shard begin with.
pub(super) fn follower_key(shard: ShardId, name: &str) -> Vec<u8> {
    [&ordered_u64(shard.get())[..], &[3], name.as_bytes()].concat()
}

/// A follower's entry.
pub(super) fn follower_entry(follower: &FollowerEntry) -> Vec<u8> {
    let FollowerEntry { epoch, lsn, micros, budget_bytes, budget_seconds } = follower;
    let mut entry = vec![FORMAT];
    entry.extend_from_slice(&epoch.version.to_le_bytes());
    entry.extend_from_slice(&epoch.term.to_le_bytes());
    for field in [lsn.get(), *micros, *budget_bytes, *budget_seconds] {
        entry.extend_from_slice(&field.to_le_bytes());
    }
    entry
}

/// The follower in an entry.
pub(super) fn read_follower(entry: &[u8]) -> Result<FollowerEntry, StoreError> {
    let mut fields = Fields::of(Family::Meta, entry)?;
    let follower = FollowerEntry {
        epoch: Epoch { version: fields.u64()?, term: fields.u32()? },
        lsn: Lsn::new(fields.u64()?),
        micros: fields.u64()?,
        budget_bytes: fields.u64()?,
        budget_seconds: fields.u64()?,
    };
    fields.end()?;
    Ok(follower)
}

/// The last `EpochStart` of a shard, as it lies in the log.
pub(super) fn epoch_start_entry(lsn: Lsn, envelope: &[u8]) -> Vec<u8> {
    [&[FORMAT][..], &lsn.get().to_le_bytes(), envelope].concat()
}

/// LSN and control record in an entry.
pub(super) fn read_epoch_start(entry: &[u8]) -> Result<(Lsn, &[u8]), StoreError> {
    let mut fields = Fields::of(Family::Meta, entry)?;
    let lsn = Lsn::new(fields.u64()?);
    Ok((lsn, fields.rest))
}

/// The fields of an entry, behind its format.
struct Fields<'a> {
    family: Family,
    entry: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(family: Family, entry: &'a [u8]) -> Result<Self, StoreError> {
        match entry.split_first() {
            Some((&FORMAT, rest)) => Ok(Self { family, entry, rest }),
            _ => Err(Self { family, entry, rest: &[] }.bad()),
        }
    }

    fn bad(&self) -> StoreError {
        let found = self.entry.first().copied().unwrap_or(0);
        StoreError::Entry { family: self.family.name(), found, bytes: self.entry.len() }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.bad())?;
        self.rest = rest;
        Ok(taken)
    }

    fn u128(&mut self) -> Result<u128, StoreError> {
        let bytes = self.take(16)?.first_chunk::<16>().copied();
        bytes.map(u128::from_le_bytes).ok_or_else(|| self.bad())
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        let bytes = self.take(8)?.first_chunk::<8>().copied();
        bytes.map(u64::from_le_bytes).ok_or_else(|| self.bad())
    }

    fn u32(&mut self) -> Result<u32, StoreError> {
        let bytes = self.take(4)?.first_chunk::<4>().copied();
        bytes.map(u32::from_le_bytes).ok_or_else(|| self.bad())
    }

    fn end(&self) -> Result<(), StoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NS: NamespaceId = NamespaceId::new(7);

    #[test]
    fn entries_are_written_and_read_as_the_golden_files_say() {
        let position = LogPosition {
            epoch: Epoch { version: 1024, term: 3 },
            lsn: Lsn::new(99),
            chain: Chain::new(0x1122_3344_5566_7788),
        };
        let log = LogId::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        let file = crate::golden::check("state_value.bin", &written(|out| write_value(out, Lsn::new(5), b"blue")));
        assert_eq!(read_value(&file).unwrap(), (5, &b"blue"[..]));
        let file =
            crate::golden::check("state_event.bin", &written(|out| write_event(out, Lsn::new(6), b"from", b"paid")));
        assert_eq!(read_event(&file).unwrap(), (6, &b"from"[..], &b"paid"[..]));
        let head = Head { version: 8, first: 3 };
        let file = crate::golden::check("state_head.bin", &written(|out| write_head(out, head)));
        assert_eq!(read_head(&file).unwrap(), head);
        let file = crate::golden::check("state_applied.bin", &applied_entry(log, position));
        assert_eq!(read_applied(&file).unwrap(), (log, position));
        assert_eq!(read_replacing(&file).unwrap(), None);
        let file = crate::golden::check("state_replacing.bin", &replacing_entry(log, position));
        assert_eq!(read_replacing(&file).unwrap(), Some((log, position)));
        assert!(read_applied(&file).is_err(), "what is half replaced has no position");
        let file = crate::golden::check("state_epoch_start.bin", &epoch_start_entry(Lsn::new(9), b"envelope"));
        assert_eq!(read_epoch_start(&file).unwrap(), (Lsn::new(9), &b"envelope"[..]));
        let epoch = position.epoch;
        let follower =
            FollowerEntry { epoch, lsn: Lsn::new(7), micros: 8, budget_bytes: 1 << 30, budget_seconds: 86_400 };
        let file = crate::golden::check("state_follower.bin", &follower_entry(&follower));
        assert_eq!(read_follower(&file).unwrap(), follower);
        crate::golden::check("state_follower_key.bin", &follower_key(ShardId::new(1025), "mail"));
        let session = Session { opened: Lsn::new(3), used: Lsn::new(9), ack_low: 4 };
        let file = crate::golden::check("state_session.bin", &session_entry(&session));
        assert_eq!(read_session(&file).unwrap(), session);
        let outcomes = [
            ("applied", Outcome::Applied { version: 8 }),
            ("precondition", Outcome::Rejected(Rejection::Precondition { index: 2, actual: 5 })),
            ("stream_version", Outcome::Rejected(Rejection::StreamVersion { index: 1, actual: 6 })),
        ];
        for (name, outcome) in outcomes {
            let executed = Executed { epoch, lsn: Lsn::new(7), outcome, fingerprint: 0x1122_3344_5566_7788 };
            let file = crate::golden::check(&format!("state_result_{name}.bin"), &result_entry(&executed));
            assert_eq!(read_result(&file).unwrap(), executed);
        }
        let file = crate::golden::check("state_session_count.bin", &number_entry(258));
        assert_eq!(read_number(&file).unwrap(), 258);
        let session = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;
        crate::golden::check("state_session_count_key.bin", &session_count_key(NS, log));
        let key = crate::golden::check("state_session_key.bin", &session_key(NS, log, session));
        assert_eq!(session_in(&key), Some(session));
        crate::golden::check("state_result_key.bin", &result_key(NS, log, session, 258));
        crate::golden::check("state_trimmed_key.bin", &trimmed_key(NS, log));
        crate::golden::check("state_trim_key.bin", &trim_key(NS, log));
        let file = crate::golden::check("state_trim.bin", &trim_entry(session));
        assert_eq!(read_trim(&file).unwrap(), session);
        crate::golden::check("state_rejected.bin", &rejected_entry());
        crate::golden::check("state_value_key.bin", &user_key(NS, b"key"));
        crate::golden::check("state_event_key.bin", &event_key(NS, b"a\0b", 258));
        crate::golden::check("state_rejected_key.bin", &rejected_key(NS, log, Lsn::new(258)));
        crate::golden::check("state_applied_key.bin", &applied_key(ShardId::new(1025)));
        crate::golden::check("state_epoch_start_key.bin", &epoch_start_key(ShardId::new(1025)));
    }

    #[test]
    fn an_entry_cut_short_or_of_another_format_is_refused_by_family() {
        let head = written(|out| write_head(out, Head { version: 8, first: 3 }));
        for entry in [&head[..head.len() - 1], &[][..], &[2, 0, 0]] {
            assert!(matches!(read_head(entry), Err(StoreError::Entry { family: "heads", .. })), "{entry:?}");
        }
        let event = written(|out| write_event(out, Lsn::new(6), b"from", b"paid"));
        for length in 0..17 {
            assert!(read_event(&event[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn events_of_one_stream_are_together_and_in_order_whatever_the_names_are(
            a in prop::collection::vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], 1..6),
            b in prop::collection::vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], 1..6),
            v in any::<u64>(), w in any::<u64>(),
        ) {
            let (one, other) = (event_key(NS, &a, v), event_key(NS, &b, w));
            if a == b {
                prop_assert_eq!(one.cmp(&other), v.cmp(&w));
            } else {
                prop_assert_eq!(one.cmp(&other), a.cmp(&b), "a stream's events lie where its name does");
                prop_assert_eq!(version_in(&stream_prefix(NS, &a), &other), None);
            }
            prop_assert_eq!(version_in(&stream_prefix(NS, &a), &one), Some(v));
        }
    }
}
