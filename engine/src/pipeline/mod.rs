//! From many callers to one order: the queue, the sequencer, the receipts.
//!
//! This floor never commits, applies or waits for a disk. Producers encode a record and push a [`Submission`];
//! the shard's thread pops them into a [`Sequencer`], which seals whatever is there into one batch (batching
//! follows load; no timer delays an idle write). The two types to know are those.

#[cfg(feature = "node")]
mod queue;
#[cfg(all(test, feature = "node"))]
mod queue_test;
#[cfg(feature = "node")]
mod ready;
#[cfg(feature = "node")]
mod receipt;
mod sequencer;
#[cfg(test)]
mod sequencer_test;
mod submission;

#[cfg(feature = "node")]
pub use queue::{Disk, SubmissionQueue, SubmitError, SubmitPolicy};
#[cfg(feature = "node")]
pub use ready::{Bell, Ready};
#[cfg(feature = "node")]
pub use receipt::{Completer, Position, Receipt, WriteError, Written};
pub use sequencer::{Sealed, Sequencer};
pub use submission::Submission;
