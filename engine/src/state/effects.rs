//! What one record does to the state: the one deterministic function `(state, record) -> (effects, outcome)`, the
//! same on every replica (I4).
//!
//! It reads no clock, no random source and no map in random order, and it decides nothing by the shape of the
//! batches: an outcome depends on the records before it alone.

use super::key::{self, Head};
use super::store::{ChangeSet, Family, StoreError, View};
use crate::model::{
    Expect, LogId, Lsn, NamespaceId, Operation, Outcome, Precondition, Record, Rejection, ShardDescriptor, Target,
};

/// The state as it will be: what is stored, under the changes made so far.
pub(super) struct Effects<'a, S> {
    pub(super) store: &'a S,
    pub(super) changes: &'a mut ChangeSet,
    pub(super) shard: &'a ShardDescriptor,
    pub(super) log: LogId,
}

impl<S: View> Effects<'_, S> {
    /// What one record does: all of it, or nothing but the note that it was rejected.
    pub(super) fn operations(&mut self, lsn: Lsn, record: &Record) -> Result<Outcome, StoreError> {
        if let Some(rejection) = self.preconditions(&record.preconditions)? {
            return Ok(self.reject(lsn, rejection));
        }
        // Operations see one another's effects, and count together or not at all: they change a copy of their own.
        let mut own = ChangeSet::default();
        let mut version = 0;
        for (index, operation) in record.operations.iter().enumerate() {
            let mut staged = Staged { under: self, own: &mut own };
            match staged.operation(lsn, operation)? {
                Ok(produced) => version = produced,
                Err(actual) => {
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    return Ok(self.reject(lsn, Rejection::StreamVersion { index, actual }));
                }
            }
        }
        self.changes.extend(own);
        Ok(Outcome::Applied { version })
    }

    /// That a record had no effect is state too: a feed shows effective records only.
    pub(super) fn reject(&mut self, lsn: Lsn, rejection: Rejection) -> Outcome {
        let key = key::rejected_key(self.shard.namespace, self.log, lsn);
        self.changes.put(Family::Rejected, key, key::rejected_entry());
        Outcome::Rejected(rejection)
    }

    fn preconditions(&self, preconditions: &[Precondition]) -> Result<Option<Rejection>, StoreError> {
        for (index, precondition) in preconditions.iter().enumerate() {
            let key = key::user_key(self.shard.namespace, &precondition.key);
            let actual = match precondition.target {
                Target::Key => self.get(Family::Values, &key)?.map_or(Ok(0), |e| key::read_value(&e).map(|v| v.0)),
                Target::Stream => {
                    self.get(Family::Heads, &key)?.map_or(Ok(0), |e| key::read_head(&e).map(|h| h.version))
                }
            }?;
            if !precondition.expect.admits(actual) {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                return Ok(Some(Rejection::Precondition { index, actual }));
            }
        }
        Ok(None)
    }

    pub(super) fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(family, key) {
            Some(changed) => Ok(changed.map(<[u8]>::to_vec)),
            None => self.store.get(family, key),
        }
    }
}

/// One record's operations in the making.
struct Staged<'a, 'b, S> {
    under: &'a Effects<'b, S>,
    own: &'a mut ChangeSet,
}

impl<S: View> Staged<'_, '_, S> {
    /// Stages one operation: the version that it produced, or (the inner error) the stream's version where another
    /// was expected.
    fn operation(&mut self, lsn: Lsn, operation: &Operation) -> Result<Result<u64, u64>, StoreError> {
        let namespace = self.namespace();
        match operation {
            Operation::Put { key, value } => {
                self.own.put(Family::Values, key::user_key(namespace, key), key::value_entry(lsn, value));
                return Ok(Ok(lsn.get()));
            }
            Operation::Delete { key } => self.own.delete(Family::Values, key::user_key(namespace, key)),
            Operation::DeleteRange { start, end } => self.delete_range(start, end),
            Operation::Append { stream, expect, metadata, value } => {
                return self.append(lsn, stream, *expect, metadata, value);
            }
            Operation::TrimStream { stream, before } => return Ok(Ok(self.trim(stream, *before)?)),
            Operation::DeleteStream { stream } => {
                if let Some(head) = self.head(stream)? {
                    self.delete_events(stream, head, head.version);
                    self.own.delete(Family::Heads, key::user_key(namespace, stream));
                }
            }
        }
        Ok(Ok(0))
    }

    /// Within the shard's own keys: another shard's log says what happens to the others, and in another order on
    /// each replica.
    fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        let shard = self.under.shard;
        let start = start.max(&shard.start);
        let end = if shard.end.is_empty() { end } else { end.min(&shard.end) };
        if start < end {
            let namespace = self.namespace();
            self.own.delete_range(Family::Values, key::user_key(namespace, start), key::user_key(namespace, end));
        }
    }

    fn append(
        &mut self,
        lsn: Lsn,
        stream: &[u8],
        expect: Expect,
        metadata: &[u8],
        value: &[u8],
    ) -> Result<Result<u64, u64>, StoreError> {
        let head = self.head(stream)?.unwrap_or(Head { version: 0, first: 1 });
        if !expect.admits(head.version) {
            return Ok(Err(head.version));
        }
        let version = head.version.saturating_add(1);
        let event = key::event_key(self.namespace(), stream, version);
        self.own.put(Family::Events, event, key::event_entry(lsn, metadata, value));
        self.put_head(stream, Head { version, ..head });
        Ok(Ok(version))
    }

    /// Keeps the events from `before` on; the stream's version stays, also when no event is kept.
    fn trim(&mut self, stream: &[u8], before: u64) -> Result<u64, StoreError> {
        let Some(head) = self.head(stream)? else { return Ok(0) };
        let first = before.min(head.version.saturating_add(1));
        if first > head.first {
            self.delete_events(stream, head, first.saturating_sub(1));
            self.put_head(stream, Head { first, ..head });
        }
        Ok(head.version)
    }

    /// Removes the events from the first one kept to `last`.
    fn delete_events(&mut self, stream: &[u8], head: Head, last: u64) {
        let start = key::event_key(self.namespace(), stream, head.first);
        let end = key::event_key(self.namespace(), stream, last.saturating_add(1));
        self.own.delete_range(Family::Events, start, end);
    }

    fn put_head(&mut self, stream: &[u8], head: Head) {
        self.own.put(Family::Heads, key::user_key(self.namespace(), stream), key::head_entry(head));
    }

    fn head(&self, stream: &[u8]) -> Result<Option<Head>, StoreError> {
        let key = key::user_key(self.namespace(), stream);
        let entry = match self.own.get(Family::Heads, &key) {
            Some(staged) => staged.map(<[u8]>::to_vec),
            None => self.under.get(Family::Heads, &key)?,
        };
        entry.map(|entry| key::read_head(&entry)).transpose()
    }

    const fn namespace(&self) -> NamespaceId {
        self.under.shard.namespace
    }
}
