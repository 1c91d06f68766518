//! Reads of the applied state.

use super::key::{self, Head};
use super::store::{Family, Order, StoreError, View};
use crate::model::NamespaceId;
use crate::model::request::{Direction, StreamEvent};
use std::ops::ControlFlow;

/// Some events of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamRead {
    /// The events, in the direction asked.
    pub events: Vec<StreamEvent>,
    /// The stream's version; 0 if it has no event.
    pub head: u64,
    /// Whether there are more in that direction.
    pub more: bool,
}

/// A key's version and value.
///
/// # Errors
/// The state can't be read.
pub fn get_value<V: View + ?Sized>(
    view: &V,
    namespace: NamespaceId,
    key: &[u8],
) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
    let Some(entry) = view.get(Family::Values, &key::user_key(namespace, key))? else { return Ok(None) };
    let (version, value) = key::read_value(&entry)?;
    Ok(Some((version, value.to_vec())))
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
