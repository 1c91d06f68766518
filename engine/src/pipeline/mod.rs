//! From many callers to one order: the queue, the sequencer, the receipts.
//!
//! This floor never commits, applies or waits for a disk. Producers encode a record and push a [`Submission`];
//! the shard's thread pops them into a [`Sequencer`], which seals whatever is there into one batch (batching
//! follows load; no timer delays an idle write). The two types to know are those.

#[cfg(feature = "node")]
mod buffers;
#[cfg(any(feature = "node", shuttle))]
mod gathering;
#[cfg(any(feature = "node", shuttle))]
mod queue;
#[cfg(all(test, shuttle))]
mod queue_model_test;
#[cfg(all(test, feature = "node", not(shuttle)))]
mod queue_test;
#[cfg(any(feature = "node", shuttle))]
mod ready;
#[cfg(all(test, shuttle))]
mod ready_model_test;
#[cfg(any(feature = "node", shuttle))]
mod receipt;
#[cfg(all(test, shuttle))]
mod receipt_model_test;
mod sequencer;
#[cfg(test)]
mod sequencer_test;
mod submission;
#[cfg(any(feature = "node", shuttle))]
pub(crate) mod sync;

#[cfg(any(feature = "node", shuttle))]
pub use crate::model::{Position, Written};
#[cfg(feature = "node")]
pub use buffers::Buffers;
#[cfg(any(feature = "node", shuttle))]
pub use gathering::Gathering;
#[cfg(any(feature = "node", shuttle))]
pub use queue::{Busy, Disk, SubmissionQueue, SubmitError, SubmitPolicy};
#[cfg(any(feature = "node", shuttle))]
pub use ready::{Bell, Ready};
#[cfg(any(feature = "node", shuttle))]
pub use receipt::{Completer, Receipt, WriteError};
pub use sequencer::{Sealed, Sequencer};
pub use submission::Submission;
