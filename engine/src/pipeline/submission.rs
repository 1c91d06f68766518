//! One write on its way to a batch.

use bytes::{Bytes, BytesMut};
use towline_wal::{BatchKind, Block, Compression};

/// From this size on a record is made a block of its own on its producer's thread, compressed where it pays:
/// smaller ones are merged first, which shrinks better and costs the producer nothing.
pub(super) const OWN_BLOCK_BYTES: usize = 16 * 1024;

/// One encoded record, and who waits for it.
///
/// ```
/// use towline::model::{Operation, Record};
/// use towline::pipeline::Submission;
/// let record = Record::of(vec![Operation::Delete { key: "k".into() }]).encode()?;
/// let submission = Submission::record(record.clone(), "who waits");
/// assert_eq!(submission.bytes(), record.len());
/// # Ok::<(), towline::model::RecordError>(())
/// ```
#[derive(Debug)]
pub struct Submission<T> {
    pub(super) content: Content,
    pub(super) token: T,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A small record, to be merged with its neighbours.
    Record(BytesMut),
    /// A large one, compressed already.
    Block(Block),
    /// A control record, in a block of its own: it lies in a batch with its like only.
    Control(Block),
}

impl<T> Submission<T> {
    /// The submission of one encoded record ([`Record::encode`](crate::model::Record::encode)). Bytes that came
    /// from elsewhere are decoded first: a batch that does not decode is refused by every replica.
    #[must_use]
    pub fn record(bytes: Bytes, token: T) -> Self {
        Self::encoded(bytes.into(), token)
    }

    /// As [`Submission::record`], in a buffer that is used again ([`Sealed::spent`](super::Sealed::spent)).
    #[must_use]
    pub fn encoded(bytes: BytesMut, token: T) -> Self {
        let content = if bytes.len() < OWN_BLOCK_BYTES {
            Content::Record(bytes)
        } else {
            Content::Block(Block::encode(bytes.freeze(), 1, Compression::WhereItPays))
        };
        Self { content, token }
    }

    /// The submission of one control record, encoded.
    #[must_use]
    pub fn control(bytes: Bytes, token: T) -> Self {
        Self { content: Content::Control(Block::encode(bytes, 1, Compression::Never)), token }
    }

    /// The same submission, for somebody else who waits.
    #[must_use]
    pub fn for_token<U>(self, token: U) -> Submission<U> {
        Submission { content: self.content, token }
    }

    /// Who waits for it, and the same submission for nobody yet.
    #[cfg(feature = "cluster")]
    pub(crate) fn without_token(self) -> (T, Submission<()>) {
        (self.token, Submission { content: self.content, token: () })
    }

    /// Bytes that it holds: what the queue's budget counts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Record(bytes) => bytes.len(),
            Content::Block(block) | Content::Control(block) => block.stored().len(),
        }
    }

    /// Bytes of the record: what a reader of the batch will hold.
    pub(super) fn raw_bytes(&self) -> usize {
        match &self.content {
            Content::Record(bytes) => bytes.len(),
            Content::Block(block) | Content::Control(block) => block.raw_len() as usize,
        }
    }

    /// What kind of batch it lies in.
    pub(super) const fn kind(&self) -> BatchKind {
        match &self.content {
            Content::Record(_) | Content::Block(_) => BatchKind::Data,
            Content::Control(_) => BatchKind::Control,
        }
    }

    /// Who waits for it.
    #[must_use]
    pub fn into_token(self) -> T {
        self.token
    }
}
