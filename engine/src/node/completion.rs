//! Who waits for a write, and how they hear.

use crate::pipeline::{Completer, Position, WriteError};

pub(super) use crate::pipeline::Written;

/// Someone who waits for one write. Hears exactly once: also when this is dropped, and then that the outcome is
/// unknown.
pub(super) enum Completion {
    /// A caller of this process, who waits until it is committed and applied.
    Receipt(Completer),
    /// One who waits until it is durable here.
    Durable(Completer<Position>),
    /// One who waits until it has its place.
    Buffered(Completer<Position>),
    /// One who has been told.
    Told,
    /// Somebody else: a client's connection.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no clients"))]
    Callback(Callback),
}

/// How far a write has come before it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// It has its place, and is on its way to the log.
    Placed,
    /// It is durable here.
    Durable,
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
        let (mut callbacks, mut durable) = (Vec::new(), Vec::new());
        let receipts = answers.into_iter().filter_map(|(completion, written)| match completion {
            Self::Receipt(completer) => Some((completer, Ok(written))),
            Self::Durable(completer) | Self::Buffered(completer) => {
                durable.push((completer, Ok(place(&written))));
                None
            }
            Self::Callback(callback) => {
                callbacks.push((callback, written));
                None
            }
            Self::Told => None,
        });
        Completer::complete_all(receipts);
        Completer::complete_all(durable);
        callbacks.into_iter().for_each(|(callback, written)| callback.call(Ok(written)));
    }

    /// Answers those of a batch whose records lie from `first` on, who asked for no more than what it has reached.
    pub(super) fn reached(completions: &mut [Self], reached: Reached, first: &Position) {
        let (mut lsn, mut answers) = (first.lsn, Vec::new());
        for completion in completions {
            let is_enough = match completion {
                Self::Buffered(_) => true,
                Self::Durable(_) => reached == Reached::Durable,
                Self::Receipt(_) | Self::Callback(_) | Self::Told => false,
            };
            if is_enough
                && let Self::Buffered(completer) | Self::Durable(completer) = std::mem::replace(completion, Self::Told)
            {
                answers.push((completer, Ok(Position { lsn, ..*first })));
            }
            lsn = lsn.next();
        }
        Completer::complete_all(answers);
    }

    /// Whether somebody waits until the write is durable here, and for no more.
    pub(super) const fn is_durable(&self) -> bool {
        matches!(self, Self::Durable(_))
    }

    /// Whether nobody waits any more.
    pub(super) const fn is_told(&self) -> bool {
        matches!(self, Self::Told)
    }

    fn complete(self, result: Result<Written, WriteError>) {
        match self {
            Self::Receipt(completer) => completer.complete(result),
            Self::Durable(completer) | Self::Buffered(completer) => {
                completer.complete(result.map(|written| place(&written)));
            }
            Self::Callback(callback) => callback.call(result),
            Self::Told => {}
        }
    }

    /// The write was not taken: whoever submitted it knows already, and nobody else is told.
    #[cfg(feature = "cluster")]
    pub(super) fn forget(self) {
        if let Self::Callback(mut callback) = self {
            callback.0 = None;
        }
    }

    /// These writes are in a log, and may or may not come to effect.
    pub(super) fn unknown_all(completions: impl IntoIterator<Item = Self>) {
        let (mut receipts, mut places) = (Vec::new(), Vec::new());
        for completion in completions {
            match completion {
                Self::Receipt(completer) => receipts.push((completer, Err(WriteError::Unknown))),
                Self::Durable(completer) | Self::Buffered(completer) => {
                    places.push((completer, Err(WriteError::Unknown)));
                }
                other => other.unknown(),
            }
        }
        Completer::complete_all(receipts);
        Completer::complete_all(places);
    }

    /// The write is in a log, and may or may not come to effect.
    pub(super) fn unknown(self) {
        self.complete(Err(WriteError::Unknown));
    }

    /// The write was not sealed, and never will be here: another node leads.
    pub(super) fn not_led(self) {
        self.complete(Err(WriteError::NotLeader));
    }

    /// The write was not sealed, and never will be: it has no effect.
    pub(super) fn closed(self) {
        self.complete(Err(WriteError::Closed));
    }
}

const fn place(written: &Written) -> Position {
    Position { shard: written.shard, epoch: written.epoch, lsn: written.lsn }
}
