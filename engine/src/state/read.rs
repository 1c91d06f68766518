//! Reads of the applied state.

use super::key::{self, Head};
use super::store::{Family, Order, StoreError, View};
use crate::model::request::{Direction, StreamEvent};
use crate::model::scan::{KeyValue, Page, Scan};
use crate::model::{LogId, LogPosition, Lsn, NamespaceId, ShardId, StreamRead};
use bytes::{Bytes, BytesMut};
use std::ops::ControlFlow;

/// What a page is thought to hold before more than its first entry is known, at the most.
const EXPECTED_ENTRIES_MAX: usize = 256;
const EXPECTED_BYTES_MAX: usize = 64 << 10;

/// A key's version and value.
///
/// # Errors
/// The state can't be read.
pub fn get_value<V: View + ?Sized>(
    view: &V,
    namespace: NamespaceId,
    key: &[u8],
) -> Result<Option<(u64, Bytes)>, StoreError> {
    let mut found = None;
    // One copy: out of the store's block.
    let mut copy = |entry: &[u8]| {
        found = Some(key::read_value(entry).map(|(version, value)| (version, Bytes::copy_from_slice(value))));
    };
    key::with_user_key(namespace, key, |key| view.show(Family::Values, key, &mut copy))?;
    found.transpose()
}

/// The position that the state holds of a shard; none if nothing of it was applied.
///
/// # Errors
/// The state can't be read.
pub fn applied_of<V: View + ?Sized>(view: &V, shard: ShardId) -> Result<Option<LogPosition>, StoreError> {
    let entry = view.get(Family::Meta, &key::applied_key(shard))?;
    entry.map(|entry| key::read_applied(&entry).map(|(_, applied)| applied)).transpose()
}

/// Whether a log knows any session.
///
/// # Errors
/// The state can't be read.
pub fn has_sessions<V: View + ?Sized>(view: &V, namespace: NamespaceId, log: LogId) -> Result<bool, StoreError> {
    let entry = view.get(Family::Sessions, &key::session_count_key(namespace, log))?;
    entry.map_or(Ok(false), |entry| key::read_number(&entry).map(|open| open > 0))
}

/// Whether of any record before this one it is known that it had no effect.
///
/// # Errors
/// The state can't be read.
pub fn has_rejected<V: View + ?Sized>(
    view: &V,
    namespace: NamespaceId,
    log: LogId,
    before: Lsn,
) -> Result<bool, StoreError> {
    let (first, end) = (key::rejected_key(namespace, log, Lsn::ZERO), key::rejected_key(namespace, log, before));
    let mut found = false;
    view.scan(Family::Rejected, &first, Order::Ascending, &mut |at, _| {
        found = at < end.as_slice();
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// From which record on it is known which ones had no effect; what lies before that was trimmed.
///
/// # Errors
/// The state can't be read.
pub fn rejected_known_from<V: View + ?Sized>(view: &V, namespace: NamespaceId, log: LogId) -> Result<Lsn, StoreError> {
    let entry = view.get(Family::Sessions, &key::trimmed_key(namespace, log))?;
    entry.map_or(Ok(Lsn::ZERO), |entry| key::read_number(&entry).map(Lsn::new))
}

/// Which records of a log, from `first` to `last`, had no effect.
///
/// # Errors
/// The state can't be read.
pub fn rejected<V: View + ?Sized>(
    view: &V,
    namespace: NamespaceId,
    log: LogId,
    first: Lsn,
    last: Lsn,
) -> Result<Vec<Lsn>, StoreError> {
    let end = key::rejected_key(namespace, log, last);
    let mut found = Vec::new();
    view.scan(Family::Rejected, &key::rejected_key(namespace, log, first), Order::Ascending, &mut |at, _| {
        if at > end.as_slice() {
            return ControlFlow::Break(());
        }
        found.extend(key::rejected_lsn(at));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// One page of a scan.
///
/// # Errors
/// The state can't be read.
pub fn scan_values<V: View + ?Sized>(view: &V, namespace: NamespaceId, scan: &Scan) -> Result<Page, StoreError> {
    let first = key::user_key(namespace, &scan.start);
    let end = scan.end.as_ref().map_or_else(|| key::after_namespace(namespace), |end| key::user_key(namespace, end));
    let (from, order) = if scan.reverse { (&end, Order::Descending) } else { (&first, Order::Ascending) };
    // All of a page in one piece of memory, of which each entry has its parts.
    let (mut found_at, mut content) = (Vec::new(), BytesMut::new());
    let (mut failed, mut more) = (None, false);
    view.scan(Family::Values, from, order, &mut |found, entry| {
        // Descending, the first one seen may be the end itself, which is not wanted.
        if scan.reverse && found >= end.as_slice() {
            return ControlFlow::Continue(());
        }
        if found < first.as_slice() || found >= end.as_slice() {
            return ControlFlow::Break(());
        }
        let full = found_at.len() >= scan.entries_max || content.len().saturating_add(entry.len()) > scan.bytes_max;
        if full && !found_at.is_empty() {
            more = true;
            return ControlFlow::Break(());
        }
        match key::read_value(entry).and_then(|value| key::user_part(found).map(|key| (key, value))) {
            Ok((key, (version, value))) => {
                if found_at.is_empty() {
                    // As if all were like the first: otherwise what is there is copied each time that it grows.
                    let expected = scan.entries_max.min(EXPECTED_ENTRIES_MAX);
                    found_at.reserve(expected);
                    content.reserve(expected.saturating_mul(key.len() + value.len()).min(EXPECTED_BYTES_MAX));
                }
                content.extend_from_slice(key);
                content.extend_from_slice(value);
                found_at.push((key.len(), version, value.len()));
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let mut content = content.freeze();
    let entry = |(key, version, value): (usize, u64, usize)| {
        let (key, value) = (content.split_to(key), content.split_to(value));
        KeyValue { key, version, value }
    };
    let entries: Vec<_> = found_at.into_iter().map(entry).collect();
    let next = entries.last().filter(|_| more).map(|last| scan.behind(&last.key));
    Ok(Page { entries, next })
}

/// Events of a stream: forward from version `from`, or backward from it (0: from the end). At most `events_max`
/// events and about `bytes_max` bytes; one event is always returned whole.
///
/// # Errors
/// The state can't be read.
pub fn read_stream<V: View + ?Sized>(
    view: &V,
    namespace: NamespaceId,
    stream: &[u8],
    from: u64,
    direction: Direction,
    events_max: usize,
    bytes_max: usize,
) -> Result<StreamRead, StoreError> {
    let Some(entry) = view.get(Family::Heads, &key::user_key(namespace, stream))? else {
        return Ok(StreamRead::default());
    };
    let Head { version: head, first } = key::read_head(&entry)?;
    let prefix = key::stream_prefix(namespace, stream);
    let (start, order) = match direction {
        Direction::Forward => (from.max(first), Order::Ascending),
        Direction::Backward if from == 0 => (u64::MAX, Order::Descending),
        Direction::Backward => (from, Order::Descending),
    };
    let mut read = StreamRead { head, ..StreamRead::default() };
    let (mut bytes, mut failed) = (0_usize, None);
    view.scan(Family::Events, &key::event_key(namespace, stream, start), order, &mut |found, entry| {
        let Some(version) = key::version_in(&prefix, found) else { return ControlFlow::Break(()) };
        let full = read.events.len() >= events_max || bytes.saturating_add(entry.len()) > bytes_max;
        if full && (events_max == 0 || !read.events.is_empty()) {
            read.more = true;
            return ControlFlow::Break(());
        }
        match key::read_event(entry) {
            Ok((lsn, metadata, value)) => {
                bytes = bytes.saturating_add(entry.len());
                let (metadata, value) = (metadata.to_vec(), value.to_vec());
                read.events.push(StreamEvent { version, lsn, metadata, value });
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(read), Err)
}
