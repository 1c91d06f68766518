//! Who waits for a submission: a thread on a place of its own, or a call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::error::WalError;

/// Where one waiter sleeps. Each has its own, so that a completed group wakes its waiters without a lock that all
/// of them would queue for.
#[derive(Debug, Default)]
pub(super) struct Berth {
    result: Mutex<Option<Result<(), WalError>>>,
    done: Condvar,
}

/// An accepted submission. Dropping it does not take the submission back.
#[derive(Debug)]
#[must_use = "until it is waited for, nobody knows whether the submission is durable"]
pub struct Pending {
    pub(super) berth: Arc<Berth>,
}

impl Pending {
    /// Waits until the submission is durable, with everything before it. It waits as long as the disk takes: a
    /// deadline here could only turn a known outcome into an unknown one.
    ///
    /// # Errors
    /// [`WalError`]: whether it is durable is unknown until the log is reopened.
    pub fn wait(self) -> Result<(), WalError> {
        let mut result = self.berth.result.lock();
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            self.berth.done.wait(&mut result);
        }
    }

    /// Whether waiting would return at once.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.berth.result.lock().is_some()
    }
}

/// What to do when a submission completes.
pub(super) enum Waiter {
    Berth(Arc<Berth>),
    Call(Box<dyn FnOnce(Result<(), WalError>) + Send>),
}

impl Waiter {
    pub(super) fn tell(self, result: Result<(), WalError>) {
        match self {
            Self::Berth(berth) => {
                *berth.result.lock() = Some(result);
                berth.done.notify_one();
            }
            // A panic in it was reported by the panic hook; it is not this log's, whose thread must go on.
            Self::Call(call) => drop(catch_unwind(AssertUnwindSafe(|| call(result)))),
        }
    }
}
