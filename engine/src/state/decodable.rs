//! What is in a batch, and the proof that this release can apply it.
//!
//! A leader's node asks of each record when it is submitted, a follower's of each batch before its replica sees it:
//! so what can't be applied never commits, and never stops every replica at the same LSN (fault N11).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::apply::ApplyError;
#[cfg(feature = "node")]
use crate::model::EpochStart;
use crate::model::control_record::ControlRecordError;
use crate::model::request::FailureClass;
use crate::model::{ControlRecord, Lsn, Record, RecordError};
use bytes::Bytes;
use towline_wal::limits::BATCH_RAW_BYTES_MAX;
use towline_wal::{Batch, BatchKind, BlockError};

/// Why a batch can't be applied by this release, on any replica.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-5301 to TW-5304 | damage | a log that holds this was written by something else: keep it, ask for help |
/// | TW-5305 | damage, or operator | as above; or a newer release wrote it: install that |
///
/// ```
/// use towline::model::{Epoch, LogId, LogPosition, Lsn, Write, request::FailureClass};
/// use towline::state::{ApplyError, BatchContentError, check_batch};
/// use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// let log = LogId::new(1);
/// let record = Write::new().put("k", "v").into_record().encode()?;
/// // One record, in a block that says that it holds two.
/// let block = Block::encode(record, 2, Compression::Never);
/// let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), LogPosition::origin(log), 0).block(block).seal()?;
/// match check_batch(&batch) {
///     Err(ApplyError::Content(error)) => {
///         assert_eq!(error, BatchContentError::Count { lsn: Lsn::FIRST, stated: 2, found: 1 });
///         assert_eq!((error.code(), error.class()), (5303, FailureClass::Damage));
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchContentError {
    /// A record does not decode.
    #[error("the record at LSN {lsn} does not decode: {source}")]
    Record {
        /// Its LSN.
        lsn: Lsn,
        /// Why.
        source: RecordError,
    },
    /// A block does not decode.
    #[error("a block at LSN {lsn} does not decode: {source}")]
    Block {
        /// The LSN of its first record.
        lsn: Lsn,
        /// Why.
        source: BlockError,
    },
    /// A batch, or a block in it, says another number of records than it holds.
    #[error("the batch at LSN {lsn} says {stated} records and holds {found}")]
    Count {
        /// Its first LSN.
        lsn: Lsn,
        /// What it says.
        stated: u32,
        /// What it holds.
        found: u64,
    },
    /// A control record speaks of another log, epoch or parent than the batch that it lies in.
    #[error("the control record at LSN {lsn} does not belong there: its {field} is another's")]
    Misplaced {
        /// Its LSN.
        lsn: Lsn,
        /// What differs.
        field: &'static str,
    },
    /// A control record does not decode, or is one that this release does not execute.
    #[error("the control record at LSN {lsn}: {source}")]
    Control {
        /// Its LSN.
        lsn: Lsn,
        /// Why.
        source: ControlRecordError,
    },
}

impl BatchContentError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Record { .. } => 5301,
            Self::Block { .. } => 5302,
            Self::Count { .. } => 5303,
            Self::Misplaced { .. } => 5304,
            Self::Control { .. } => 5305,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Control { source: ControlRecordError::Reserved(_) | ControlRecordError::Unknown(_), .. } => {
                FailureClass::Operator
            }
            _ => FailureClass::Damage,
        }
    }
}

/// Proves that every record of a batch can be applied by this release.
///
/// ```
/// use towline::model::{Epoch, LogId, LogPosition, Operation, Record};
/// use towline::state::check_batch;
/// use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// let log = LogId::new(1);
/// let batch = |raw: bytes::Bytes| {
///     BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), LogPosition::origin(log), 0)
///         .block(Block::encode(raw, 1, Compression::Never))
///         .seal()
/// };
/// let good = Record::of(vec![Operation::Delete { key: "k".into() }]).encode()?;
/// assert!(check_batch(&batch(good)?).is_ok());
/// assert!(check_batch(&batch("poison".into())?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ApplyError::Content`] says which LSN, and what is wrong with it.
pub fn check_batch(batch: &Batch) -> Result<(), ApplyError> {
    walk(batch, |_, _| Ok(()))
}

/// The `EpochStart` that a batch holds, if it does.
///
/// # Errors
/// As [`check_batch`].
#[cfg(feature = "node")]
pub(crate) fn epoch_start_of(batch: &Batch) -> Result<Option<EpochStart>, ApplyError> {
    let mut found = None;
    walk(batch, |_, content| {
        if let Content::Control(ControlRecord::EpochStart(start), _) = content {
            found = Some(start.clone());
        }
        Ok::<_, ApplyError>(())
    })?;
    Ok(found)
}

/// What one LSN holds.
pub(super) enum Content<'a> {
    /// A write, and, if it is a request of a session, its fingerprint.
    Record(&'a Record, u64),
    /// A control record, and its bytes.
    Control(&'a ControlRecord, &'a Bytes),
}

/// Each record of a batch with its LSN, proven to be one that this release executes; the batch must hold as many
/// as it says.
pub(super) fn walk<E: From<BatchContentError>>(
    batch: &Batch,
    mut each: impl FnMut(Lsn, Content<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut lsn, mut left) = (batch.first_lsn(), BATCH_RAW_BYTES_MAX);
    // Read again and again into the same memory.
    let mut record = Record::default();
    for block in batch.blocks() {
        let (first, stated) = (lsn, block.record_count());
        let mut raw = block.decode(left).map_err(|source| BatchContentError::Block { lsn, source })?;
        left = left.saturating_sub(raw.len());
        if batch.kind() == BatchKind::Control {
            let record = control(batch, lsn, &raw)?;
            each(lsn, Content::Control(&record, &raw))?;
            lsn = lsn.next();
        } else {
            while !raw.is_empty() {
                let encoded = raw.clone();
                record.read(&mut raw).map_err(|source| BatchContentError::Record { lsn, source })?;
                let fingerprint = if record.request.session == 0 {
                    0
                } else {
                    Record::fingerprint(&encoded.slice(..encoded.len().saturating_sub(raw.len())))
                };
                each(lsn, Content::Record(&record, fingerprint))?;
                lsn = lsn.next();
            }
        }
        let found = first.distance_to(lsn).unwrap_or(0);
        if found != u64::from(stated) {
            return Err(BatchContentError::Count { lsn: first, stated, found }.into());
        }
    }
    Ok(())
}

/// The control record of a control batch, which speaks of the place where it lies.
fn control(batch: &Batch, lsn: Lsn, raw: &[u8]) -> Result<ControlRecord, BatchContentError> {
    let record = ControlRecord::decode(raw).map_err(|source| BatchContentError::Control { lsn, source })?;
    match &record {
        ControlRecord::OpenSession { .. } | ControlRecord::CloseSession { .. } | ControlRecord::Trim { .. } => {
            Ok(record)
        }
        ControlRecord::EpochStart(start) => {
            let places = [
                ("log", start.assignment.log == batch.log()),
                ("epoch", start.assignment.epoch == batch.epoch()),
                ("parent", batch.follows(&start.parent)),
            ];
            match places.into_iter().find(|(_, fits)| !fits) {
                Some((field, _)) => Err(BatchContentError::Misplaced { lsn, field }),
                None => Ok(record),
            }
        }
    }
}
