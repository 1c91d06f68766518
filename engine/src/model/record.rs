//! The record: one write as it lies in a batch, laid out by hand, format version 1.
//!
//! ```text
//!  0  u32  length of the whole record, this field included
//!  4  u8   format version (1)
//!  5  u8   flags: bit 0 unordered; the others are 0
//!  6  u16  number of preconditions
//!  8  u128 session (0: none)
//! 24  u64  request number (0 without a session)
//! 32  u64  lowest request number that the client still waits for
//! 40  u64  the session's previous number in this shard (`after`)
//! 48  u32  principal: who wrote it, as the authorisation at the door decided (0: nobody named)
//! 52  u32  number of operations
//! 56       preconditions, then operations, without gaps
//!
//! precondition                          operation
//!  0  u8   target: 1 key, 2 stream       0  u8   kind: 1 put, 2 delete, 3 delete range, 4 append,
//!  1  u8   expect: 1 absent, 2 present,          5 trim stream, 6 delete stream
//!          3 version                     1  u8   expect: 0 any, 1 absent, 2 present, 3 version
//!  2  u16  length of the key             2  u16  length of the key
//!  4  u64  version (0 unless expect 3)   4  u32  length of the metadata
//! 12       key                           8  u32  length of the value
//!                                       12  u64  argument: version expected, or version to trim before
//!                                       20       key, metadata, value
//! ```
//!
//! Little-endian. A record has no checksum of its own: the batch's covers it. There is one encoding of each
//! record and no other decodes, so that decoding and encoding again gives the same bytes.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::limits::{
    KEY_BYTES_MAX, METADATA_BYTES_MAX, OPERATIONS_MAX, PRECONDITIONS_MAX, REQUESTS_WAITING_MAX, VALUE_BYTES_MAX,
    WRITE_BYTES_MAX,
};
use super::operation::{Expect, Operation, Precondition, Target};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The format's version.
pub const RECORD_VERSION: u8 = 1;
/// Bytes of a record before its preconditions.
pub const RECORD_HEADER_BYTES: usize = 56;
const PRECONDITION_HEADER_BYTES: usize = 12;
const OPERATION_HEADER_BYTES: usize = 20;
const FLAG_UNORDERED: u8 = 1;

/// Which request of which client a write is: what makes it take effect once (I5).
///
/// ```
/// use towline::model::{Epoch, Lsn, Operation, Record, RecordError, RequestId, ShardId, session_id};
/// let session = session_id(ShardId::new(1024), Epoch::new(1024, 1), Lsn::new(7));
/// let mut record = Record::of(vec![Operation::Delete { key: "saw".into() }]);
/// // The third request of the session; its client has the answer to the first one.
/// record.request = RequestId { session, number: 3, ack_low: 2, after: 2 };
/// let bytes = record.encode()?;
///
/// record.request.ack_low = 3; // Tried again, with the answer to the second one: the same request.
/// assert_eq!(Record::fingerprint(&record.encode()?), Record::fingerprint(&bytes));
/// record.request.after = 3;
/// assert_eq!(record.encode(), Err(RecordError::Field { field: "after", value: 3 }), "none comes before itself");
/// # Ok::<(), RecordError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestId {
    /// The client's session, as the shard named it ([`session_id`](super::session_id)); 0 means that the write has none.
    pub session: u128,
    /// The request's number in the session, from 1; 0 without a session.
    pub number: u64,
    /// The lowest number that the client still waits for; results below it may be forgotten.
    pub ack_low: u64,
    /// The session's previous number in this shard: apply refuses to overtake it. 0: there is none, or order is given up.
    pub after: u64,
}

impl RequestId {
    /// What every request id satisfies, when it is written and when it is read.
    fn check(&self) -> Result<(), RecordError> {
        let Self { session, number, ack_low, after } = *self;
        let field = |field, value| Err(RecordError::Field { field, value });
        if session == 0 {
            return if *self == Self::default() { Ok(()) } else { field("number", number) };
        }
        if ack_low == 0 || ack_low > number {
            return field("ack_low", ack_low);
        }
        if after >= number {
            return field("after", after);
        }
        let waiting = number.saturating_sub(ack_low);
        let (limit, value) = (REQUESTS_WAITING_MAX, usize::try_from(waiting).unwrap_or(usize::MAX));
        if waiting >= limit {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            return Err(RecordError::Limit { what: "number of requests that wait", limit, value });
        }
        Ok(())
    }
}

/// One write: who, on what condition, what.
///
/// ```
/// use towline::model::{Operation, Record};
/// let record = Record::of(vec![Operation::Put { key: "k".into(), value: "v".into() }]);
/// let bytes = record.encode()?;
/// let mut rest = bytes.clone();
/// assert_eq!(Record::decode(&mut rest)?, record);
/// assert!(rest.is_empty());
/// # Ok::<(), towline::model::RecordError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Its request id.
    pub request: RequestId,
    /// Who wrote it (0: nobody named).
    pub principal: u32,
    /// Whether it gives up the order of its session's writes.
    pub unordered: bool,
    /// What must hold for it to take effect.
    pub preconditions: Vec<Precondition>,
    /// What it does: one operation at the least.
    pub operations: Vec<Operation>,
}

/// Why bytes are not a record, or a record can't be written.
///
/// ```
/// use towline::model::{Operation, Record, RecordError};
/// assert_eq!(Record::default().encode(), Err(RecordError::NoOperations));
///
/// let bytes = Record::of(vec![Operation::Delete { key: "saw".into() }]).encode()?;
/// let mut cut = bytes.slice(..50);
/// let refused = Record::decode(&mut cut);
/// assert_eq!(refused, Err(RecordError::Truncated { offset: 0, needed: bytes.len(), left: 50 }));
/// let mut newer = bytes.to_vec();
/// newer[4] = 2;
/// assert_eq!(Record::decode(&mut newer.into()), Err(RecordError::Version { found: 2 }));
/// # Ok::<(), RecordError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end inside the record.
    #[error("a record ends early: {needed} bytes are wanted at offset {offset}, {left} are left")]
    Truncated {
        /// Where in the record.
        offset: usize,
        /// Bytes wanted there.
        needed: usize,
        /// Bytes left.
        left: usize,
    },
    /// A format version that this release does not know.
    #[error("record format version {found} is not known here (known: {RECORD_VERSION})")]
    Version {
        /// The version found.
        found: u8,
    },
    /// A field has a value that no encoder writes.
    #[error("the record's field `{field}` has the value {value}, which is not legal")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The record's parts do not add up to its length.
    #[error("the record says {stated} bytes and has {found}")]
    Length {
        /// What its header says.
        stated: usize,
        /// What its parts need.
        found: usize,
    },
    /// A limit is exceeded.
    #[error("the {what} is {value}, over the limit of {limit}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// The value found.
        value: usize,
    },
    /// A key or stream name is empty.
    #[error("the key of operation or precondition {index} is empty: a key has 1 to {KEY_BYTES_MAX} bytes")]
    EmptyKey {
        /// Which one, from 0.
        index: usize,
    },
    /// A write without operations.
    #[error("a write needs one operation at the least")]
    NoOperations,
}

impl Record {
    /// A record of these operations: no session, no preconditions.
    #[must_use]
    pub fn of(operations: Vec<Operation>) -> Self {
        Self { operations, ..Self::default() }
    }

    /// Its length when encoded, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let preconditions = self
            .preconditions
            .iter()
            .fold(0_usize, |sum, p| sum.saturating_add(PRECONDITION_HEADER_BYTES).saturating_add(p.key.len()));
        self.operations.iter().fold(RECORD_HEADER_BYTES.saturating_add(preconditions), |sum, operation| {
            let parts = Parts::of(operation);
            [OPERATION_HEADER_BYTES, parts.key.len(), parts.metadata.len(), parts.value.len()]
                .into_iter()
                .fold(sum, usize::saturating_add)
        })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// A limit is exceeded, a key is empty, or there is no operation; nothing else fails.
    pub fn encode(&self) -> Result<Bytes, RecordError> {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.encode_into(&mut out)?;
        Ok(out.freeze())
    }

    /// Appends its bytes to a buffer.
    ///
    /// # Errors
    /// As [`Record::encode`]; the buffer is then as it was.
    pub fn encode_into(&self, out: &mut BytesMut) -> Result<(), RecordError> {
        self.check()?;
        let length = self.encoded_len();
        out.reserve(length);
        out.put_u32_le(narrow_u32(length, "record length")?);
        out.put_u8(RECORD_VERSION);
        out.put_u8(if self.unordered { FLAG_UNORDERED } else { 0 });
        out.put_u16_le(narrow_u16(self.preconditions.len(), "number of preconditions")?);
        out.put_u128_le(self.request.session);
        out.put_u64_le(self.request.number);
        out.put_u64_le(self.request.ack_low);
        out.put_u64_le(self.request.after);
        out.put_u32_le(self.principal);
        out.put_u32_le(narrow_u32(self.operations.len(), "number of operations")?);
        for precondition in &self.preconditions {
            let (expect, version) = expect_code(precondition.expect);
            out.put_u8(match precondition.target {
                Target::Key => 1,
                Target::Stream => 2,
            });
            out.put_u8(expect);
            out.put_u16_le(narrow_u16(precondition.key.len(), "key length")?);
            out.put_u64_le(version);
            out.put_slice(&precondition.key);
        }
        for operation in &self.operations {
            let parts = Parts::of(operation);
            out.put_u8(parts.kind);
            out.put_u8(parts.expect);
            out.put_u16_le(narrow_u16(parts.key.len(), "key length")?);
            out.put_u32_le(narrow_u32(parts.metadata.len(), "metadata length")?);
            out.put_u32_le(narrow_u32(parts.value.len(), "value length")?);
            out.put_u64_le(parts.argument);
            out.put_slice(parts.key);
            out.put_slice(parts.metadata);
            out.put_slice(parts.value);
        }
        Ok(())
    }

    /// Takes one record off the front of `bytes`. Keys and values share the buffer; nothing is copied.
    ///
    /// # Errors
    /// The bytes are not a record of a version known here; `bytes` is then anywhere.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, RecordError> {
        let mut record = Self::default();
        record.read(bytes)?;
        Ok(record)
    }

    /// As [`Record::decode`], into this record, whose memory is used again.
    ///
    /// # Errors
    /// As [`Record::decode`]; the record is then of no use.
    pub(crate) fn read(&mut self, bytes: &mut Bytes) -> Result<(), RecordError> {
        let length = peek_length(bytes)?;
        let mut body = bytes.split_to(length);
        body.advance(4);
        let version = body.get_u8();
        if version != RECORD_VERSION {
            return Err(RecordError::Version { found: version });
        }
        let flags = body.get_u8();
        if flags & !FLAG_UNORDERED != 0 {
            return Err(RecordError::Field { field: "flags", value: u64::from(flags) });
        }
        let precondition_count = usize::from(body.get_u16_le());
        self.unordered = flags & FLAG_UNORDERED != 0;
        self.request = RequestId {
            session: body.get_u128_le(),
            number: body.get_u64_le(),
            ack_low: body.get_u64_le(),
            after: body.get_u64_le(),
        };
        self.principal = body.get_u32_le();
        let operation_count = body.get_u32_le() as usize;
        limit("number of preconditions", PRECONDITIONS_MAX, precondition_count)?;
        limit("number of operations", OPERATIONS_MAX, operation_count)?;
        let mut reader = Reader { length, body };
        self.preconditions.clear();
        for _ in 0..precondition_count {
            self.preconditions.push(reader.precondition()?);
        }
        self.operations.clear();
        for _ in 0..operation_count {
            self.operations.push(reader.operation()?);
        }
        if reader.body.has_remaining() {
            let found = length.saturating_sub(reader.body.remaining());
            return Err(RecordError::Length { stated: length, found });
        }
        self.check()
    }

    /// Tells one request from another: a hash of what an encoded record does, on which conditions, and for whom; not of its
    /// request id. xxh3, 64 bits.
    #[must_use]
    pub fn fingerprint(encoded: &[u8]) -> u64 {
        let preconditions =
            encoded.get(6..8).map_or(0, |field| field.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)));
        xxhash_rust::xxh3::xxh3_64_with_seed(encoded.get(48..).unwrap_or_default(), preconditions)
    }

    /// What every record satisfies, when it is written and when it is read.
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        if self.operations.is_empty() {
            return Err(RecordError::NoOperations);
        }
        limit("number of operations", OPERATIONS_MAX, self.operations.len())?;
        limit("number of preconditions", PRECONDITIONS_MAX, self.preconditions.len())?;
        limit("record length", WRITE_BYTES_MAX, self.encoded_len())?;
        self.request.check()?;
        for (index, precondition) in self.preconditions.iter().enumerate() {
            if precondition.key.is_empty() {
                return Err(RecordError::EmptyKey { index });
            }
            if precondition.expect == Expect::Any {
                return Err(RecordError::Field { field: "precondition.expect", value: 0 });
            }
            limit("key length", KEY_BYTES_MAX, precondition.key.len())?;
        }
        for (index, operation) in self.operations.iter().enumerate() {
            let parts = Parts::of(operation);
            if parts.key.is_empty() {
                return Err(RecordError::EmptyKey { index });
            }
            limit("key length", KEY_BYTES_MAX, parts.key.len())?;
            limit("metadata length", METADATA_BYTES_MAX, parts.metadata.len())?;
            let (what, value_max) = match operation {
                Operation::DeleteRange { .. } => ("end of the range", KEY_BYTES_MAX),
                _ => ("value length", VALUE_BYTES_MAX),
            };
            limit(what, value_max, parts.value.len())?;
        }
        Ok(())
    }
}

/// The encoded parts of an operation, borrowed.
struct Parts<'a> {
    kind: u8,
    expect: u8,
    argument: u64,
    key: &'a [u8],
    metadata: &'a [u8],
    value: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(operation: &'a Operation) -> Self {
        let plain = |kind, key: &'a Bytes| Self { kind, expect: 0, argument: 0, key, metadata: &[], value: &[] };
        match operation {
            Operation::Put { key, value } => Self { value, ..plain(1, key) },
            Operation::Delete { key } => plain(2, key),
            Operation::DeleteRange { start, end } => Self { value: end, ..plain(3, start) },
            Operation::Append { stream, expect, metadata, value } => {
                let (expect, argument) = expect_code(*expect);
                Self { expect, argument, metadata, value, ..plain(4, stream) }
            }
            Operation::TrimStream { stream, before } => Self { argument: *before, ..plain(5, stream) },
            Operation::DeleteStream { stream } => plain(6, stream),
        }
    }
}

const fn expect_code(expect: Expect) -> (u8, u64) {
    match expect {
        Expect::Any => (0, 0),
        Expect::Absent => (1, 0),
        Expect::Present => (2, 0),
        Expect::Version(version) => (3, version),
    }
}

fn expect_of(code: u8, version: u64) -> Result<Expect, RecordError> {
    match (code, version) {
        (0, 0) => Ok(Expect::Any),
        (1, 0) => Ok(Expect::Absent),
        (2, 0) => Ok(Expect::Present),
        (3, version) => Ok(Expect::Version(version)),
        _ => Err(RecordError::Field { field: "expect", value: u64::from(code) }),
    }
}

/// The parts of a record after its header.
struct Reader {
    length: usize,
    body: Bytes,
}

impl Reader {
    fn need(&self, needed: usize) -> Result<(), RecordError> {
        let left = self.body.remaining();
        if left < needed {
            return Err(RecordError::Truncated { offset: self.length.saturating_sub(left), needed, left });
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<Bytes, RecordError> {
        self.need(count)?;
        Ok(self.body.split_to(count))
    }

    fn precondition(&mut self) -> Result<Precondition, RecordError> {
        self.need(PRECONDITION_HEADER_BYTES)?;
        let target = match self.body.get_u8() {
            1 => Target::Key,
            2 => Target::Stream,
            other => return Err(RecordError::Field { field: "target", value: u64::from(other) }),
        };
        let expect = self.body.get_u8();
        let key_len = usize::from(self.body.get_u16_le());
        let expect = expect_of(expect, self.body.get_u64_le())?;
        Ok(Precondition { target, expect, key: self.take(key_len)? })
    }

    fn operation(&mut self) -> Result<Operation, RecordError> {
        self.need(OPERATION_HEADER_BYTES)?;
        let kind = self.body.get_u8();
        let expect = self.body.get_u8();
        let key_len = usize::from(self.body.get_u16_le());
        let metadata_len = self.body.get_u32_le() as usize;
        let value_len = self.body.get_u32_le() as usize;
        let argument = self.body.get_u64_le();
        let key = self.take(key_len)?;
        let metadata = self.take(metadata_len)?;
        let value = self.take(value_len)?;
        let operation = match kind {
            1 => Operation::Put { key, value },
            2 => Operation::Delete { key },
            3 => Operation::DeleteRange { start: key, end: value },
            4 => Operation::Append { stream: key, expect: expect_of(expect, argument)?, metadata, value },
            5 => Operation::TrimStream { stream: key, before: argument },
            6 => Operation::DeleteStream { stream: key },
            other => return Err(RecordError::Field { field: "kind", value: u64::from(other) }),
        };
        // One encoding a record: fields that this kind does not use must be empty.
        let parts = Parts::of(&operation);
        let unused = [
            ("operation.expect", parts.expect != expect, u64::from(expect)),
            ("operation.argument", parts.argument != argument, argument),
            ("operation.metadata", parts.metadata.len() != metadata_len, metadata_len as u64),
            ("operation.value", parts.value.len() != value_len, value_len as u64),
        ];
        match unused.into_iter().find(|(_, differs, _)| *differs) {
            Some((field, _, value)) => Err(RecordError::Field { field, value }),
            None => Ok(operation),
        }
    }
}

/// The length of the record at the front, checked against what is there and against the limits.
fn peek_length(bytes: &Bytes) -> Result<usize, RecordError> {
    let left = bytes.len();
    let Some(field) = bytes.first_chunk::<4>() else {
        return Err(RecordError::Truncated { offset: 0, needed: 4, left });
    };
    let length = u32::from_le_bytes(*field) as usize;
    if length < RECORD_HEADER_BYTES {
        return Err(RecordError::Length { stated: length, found: RECORD_HEADER_BYTES });
    }
    limit("record length", WRITE_BYTES_MAX, length)?;
    if left < length {
        return Err(RecordError::Truncated { offset: 0, needed: length, left });
    }
    Ok(length)
}

const fn limit(what: &'static str, limit: usize, value: usize) -> Result<(), RecordError> {
    if value > limit { Err(RecordError::Limit { what, limit, value }) } else { Ok(()) }
}

fn narrow_u32(value: usize, what: &'static str) -> Result<u32, RecordError> {
    u32::try_from(value).map_err(|_| RecordError::Limit { what, limit: u32::MAX as usize, value })
}

fn narrow_u16(value: usize, what: &'static str) -> Result<u16, RecordError> {
    u16::try_from(value).map_err(|_| RecordError::Limit { what, limit: usize::from(u16::MAX), value })
}
