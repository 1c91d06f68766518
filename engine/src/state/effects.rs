//! What one record does to the state: the one deterministic function `(state, record) -> (effects, outcome)`, the
//! same on every replica (I4).
//!
//! It reads no clock, no random source and no map in random order, and it decides nothing by the shape of the
//! batches: an outcome depends on the records before it alone.

use super::change_set::ChangeSet;
use super::key::{self, Head};
use super::store::{Family, StoreError, View};
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
        // Operations see one another's effects, and count together or not at all.
        let before = self.changes.savepoint();
        let mut version = 0;
        for (index, operation) in record.operations.iter().enumerate() {
            match self.operation(lsn, operation)? {
                Ok(produced) => version = produced,
                Err(actual) => {
                    self.changes.roll_back(before);
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    return Ok(self.reject(lsn, Rejection::StreamVersion { index, actual }));
                }
            }
        }
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
            let actual =
                key::with_user_key(self.shard.namespace, &precondition.key, |key| match precondition.target {
                    Target::Key => self.look(Family::Values, key, |entry| key::read_value(entry).map(|value| value.0)),
                    Target::Stream => {
                        self.look(Family::Heads, key, |entry| key::read_head(entry).map(|head| head.version))
                    }
                })?;
            let actual = actual.unwrap_or(0);
            if !precondition.expect.admits(actual) {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                return Ok(Some(Rejection::Precondition { index, actual }));
            }
        }
        Ok(None)
    }

    /// What an entry says, as it is or as it will be; none if there is none.
    pub(super) fn look<T>(
        &self,
        family: Family,
        key: &[u8],
        read: impl Fn(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if let Some(changed) = self.changes.get(family, key) {
            return changed.map(read).transpose();
        }
        let mut found = None;
        self.store.show(family, key, &mut |entry| found = Some(read(entry)))?;
        found.transpose()
    }

    /// Does one operation: the version that it produced, or (the inner error) the stream's version where another
    /// was expected.
    fn operation(&mut self, lsn: Lsn, operation: &Operation) -> Result<Result<u64, u64>, StoreError> {
        let namespace = self.namespace();
        match operation {
            Operation::Put { key, value } => {
                self.changes.put_written(
                    Family::Values,
                    |out| key::write_user_key(out, namespace, key),
                    |out| key::write_value(out, lsn, value),
                );
                return Ok(Ok(lsn.get()));
            }
            Operation::Delete { key } => {
                key::with_user_key(namespace, key, |key| self.changes.delete(Family::Values, key));
            }
            Operation::DeleteRange { start, end } => self.delete_range(start, end),
            Operation::Append { stream, expect, metadata, value } => {
                return self.append(lsn, stream, *expect, metadata, value);
            }
            Operation::TrimStream { stream, before } => return Ok(Ok(self.trim_stream(stream, *before)?)),
            Operation::DeleteStream { stream } => {
                if let Some(head) = self.head(stream)? {
                    self.delete_events(stream, head, head.version);
                    key::with_user_key(namespace, stream, |key| self.changes.delete(Family::Heads, key));
                }
            }
        }
        Ok(Ok(0))
    }

    /// Within the shard's own keys: another shard's log says what happens to the others, and in another order on
    /// each replica.
    fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        let shard = self.shard;
        let start = start.max(&shard.start);
        let end = if shard.end.is_empty() { end } else { end.min(&shard.end) };
        if start < end {
            let namespace = self.namespace();
            self.changes.delete_range(Family::Values, key::user_key(namespace, start), key::user_key(namespace, end));
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
        let namespace = self.namespace();
        self.changes.put_written(
            Family::Events,
            |out| key::write_event_key(out, namespace, stream, version),
            |out| key::write_event(out, lsn, metadata, value),
        );
        self.put_head(stream, Head { version, ..head });
        Ok(Ok(version))
    }

    /// Keeps the events from `before` on; the stream's version stays, also when no event is kept.
    fn trim_stream(&mut self, stream: &[u8], before: u64) -> Result<u64, StoreError> {
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
        self.changes.delete_range(Family::Events, start, end);
    }

    fn put_head(&mut self, stream: &[u8], head: Head) {
        let namespace = self.namespace();
        self.changes.put_written(
            Family::Heads,
            |out| key::write_user_key(out, namespace, stream),
            |out| key::write_head(out, head),
        );
    }

    fn head(&self, stream: &[u8]) -> Result<Option<Head>, StoreError> {
        key::with_user_key(self.namespace(), stream, |key| self.look(Family::Heads, key, key::read_head))
    }

    const fn namespace(&self) -> NamespaceId {
        self.shard.namespace
    }
}
