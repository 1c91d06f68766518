//! A write in the making.

use super::operation::{Expect, Operation, Precondition, Target};
use super::record::Record;
use bytes::Bytes;

/// Operations that take effect together, or not at all, and what must hold for it.
///
/// They lie within one shard. Keys and values are taken by anything that becomes [`Bytes`]: a `Vec<u8>` or a `String`
/// is moved, a `&'static str` is not copied.
///
/// ```
/// use towline::model::{Expect, Write};
/// let transfer = Write::new()
///     .append("account-7", Expect::Version(12), "withdrew 30")
///     .append("account-9", Expect::Any, "received 30")
///     .put(format!("transfer-{}", 4711), "done")
///     .expect("transfer-4711", Expect::Absent);
/// assert_eq!(transfer.record().operations.len(), 3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "a write does nothing until it is submitted"]
pub struct Write {
    record: Record,
}

impl Write {
    /// One that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.operation(Operation::Put { key: key.into(), value: value.into() })
    }

    /// Removes a key.
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        self.operation(Operation::Delete { key: key.into() })
    }

    /// Removes all keys from `start` (included) to `end` (excluded). Streams stay.
    pub fn delete_range(self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        self.operation(Operation::DeleteRange { start: start.into(), end: end.into() })
    }

    /// Appends an event to a stream.
    pub fn append(self, stream: impl Into<Bytes>, expect: Expect, event: impl Into<Bytes>) -> Self {
        self.append_with(stream, expect, Bytes::new(), event)
    }

    /// Appends an event that says where it came from, beside what it is.
    pub fn append_with(
        self,
        stream: impl Into<Bytes>,
        expect: Expect,
        metadata: impl Into<Bytes>,
        event: impl Into<Bytes>,
    ) -> Self {
        let (stream, metadata, value) = (stream.into(), metadata.into(), event.into());
        self.operation(Operation::Append { stream, expect, metadata, value })
    }

    /// Removes a stream's events before a version; its version stays.
    pub fn trim_stream(self, stream: impl Into<Bytes>, before: u64) -> Self {
        self.operation(Operation::TrimStream { stream: stream.into(), before })
    }

    /// Removes a stream with all its events.
    pub fn delete_stream(self, stream: impl Into<Bytes>) -> Self {
        self.operation(Operation::DeleteStream { stream: stream.into() })
    }

    /// Takes effect only if a key's version is as expected. [`Expect::Any`] asks for nothing.
    pub fn expect(self, key: impl Into<Bytes>, expect: Expect) -> Self {
        self.precondition(Target::Key, key.into(), expect)
    }

    /// Takes effect only if a stream's version is as expected.
    pub fn expect_stream(self, stream: impl Into<Bytes>, expect: Expect) -> Self {
        self.precondition(Target::Stream, stream.into(), expect)
    }

    /// Adds any operation.
    pub fn operation(mut self, operation: Operation) -> Self {
        self.record.operations.push(operation);
        self
    }

    fn precondition(mut self, target: Target, key: Bytes, expect: Expect) -> Self {
        if expect != Expect::Any {
            self.record.preconditions.push(Precondition { target, key, expect });
        }
        self
    }

    /// As it will lie in the log.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// As it will lie in the log.
    #[must_use]
    pub fn into_record(self) -> Record {
        self.record
    }
}

impl AsRef<Record> for Write {
    fn as_ref(&self) -> &Record {
        &self.record
    }
}

impl AsRef<Self> for Record {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl From<Record> for Write {
    fn from(record: Record) -> Self {
        Self { record }
    }
}

impl From<Operation> for Write {
    fn from(operation: Operation) -> Self {
        Self::new().operation(operation)
    }
}
