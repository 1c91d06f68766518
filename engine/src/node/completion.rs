//! Who waits for a write, and how they hear.

use crate::pipeline::{Completer, WriteError};

pub(super) use crate::pipeline::Written;

/// Someone who waits for one write. Hears exactly once: also when this is dropped, and then that the outcome is
/// unknown.
pub(super) enum Completion {
    /// A caller of this process.
    Receipt(Completer),
    /// Somebody else: a client's connection.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no clients"))]
    Callback(Callback),
}

type Call = Box<dyn FnOnce(Result<Written, WriteError>) + Send>;

/// Called once.
pub(super) struct Callback(Option<Call>);

impl Callback {
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no clients"))]
    pub(super) fn new(call: impl FnOnce(Result<Written, WriteError>) + Send + 'static) -> Self {
        Self(Some(Box::new(call)))
    }

    fn call(mut self, result: Result<Written, WriteError>) {
        if let Some(call) = self.0.take() {
            call(result);
        }
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call(Err(WriteError::Unknown));
        }
    }
}

impl Completion {
    /// These writes are committed and applied here. All receipts are answered before the first who waits wakes.
    pub(super) fn written(answers: Vec<(Self, Written)>) {
        let mut callbacks = Vec::new();
        let receipts = answers.into_iter().filter_map(|(completion, written)| match completion {
            Self::Receipt(completer) => Some((completer, Ok(written))),
            Self::Callback(callback) => {
                callbacks.push((callback, written));
                None
            }
        });
        Completer::complete_all(receipts);
        callbacks.into_iter().for_each(|(callback, written)| callback.call(Ok(written)));
    }

    fn complete(self, result: Result<Written, WriteError>) {
        match self {
            Self::Receipt(completer) => completer.complete(result),
            Self::Callback(callback) => callback.call(result),
        }
    }

    /// The write was not taken: whoever submitted it knows already, and nobody else is told.
    #[cfg(feature = "cluster")]
    pub(super) fn forget(self) {
        if let Self::Callback(mut callback) = self {
            callback.0 = None;
        }
    }

    /// The write is in a log, and may or may not come to effect.
    pub(super) fn unknown(self) {
        self.complete(Err(WriteError::Unknown));
    }

    /// The write was not sealed, and never will be.
    pub(super) fn closed(self) {
        self.complete(Err(WriteError::Closed));
    }
}
