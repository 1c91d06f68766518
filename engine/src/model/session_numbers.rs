//! The numbers of a session: which were used, which wait for an answer, and what a request says of those before it.
//!
//! Whoever submits requests of a session keeps one of these, the embedding program and the remote client alike.

use super::ids::ShardId;
use super::limits::REQUESTS_WAITING_MAX;
use super::outcome::{Outcome, Rejection};
use super::record::RequestId;
use super::request::FailureClass;
use super::session_state::{Sent, SessionState};
use std::collections::BTreeMap;

/// Why a session gives a request no number, or not this one: nothing was submitted.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6113 | fix the request | send the request where it went first, or give its number up and take another |
/// | TW-6114 | fix the request | take the answers of the session's requests before there are more |
/// | TW-6118 | fix the request | begin another session |
///
/// ```
/// use towline::node::{Node, NodeOptions, WriteRefused};
/// use towline::model::{NumberError, SessionState};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let bank = node.default_namespace();
/// let session = bank.open_session()?;
/// let near_the_end = bank.resume_session(SessionState { next: None, ..session.state() });
/// let refused = near_the_end.next_number().unwrap_err();
/// assert!(matches!(refused, WriteRefused::Number(NumberError::Exhausted)) && refused.code() == 6118);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NumberError {
    /// The request was submitted to another shard before, where it may have been executed.
    #[error("request {number} of the session was submitted to shard {first} before, and would go to shard {now} now")]
    OtherShard {
        /// Its number.
        number: u64,
        /// Where it was submitted first.
        first: ShardId,
        /// Where this write lies.
        now: ShardId,
    },
    /// The session waits for the answer of a request too far behind this one.
    #[error(
        "request {number} of the session must be fewer than {REQUESTS_WAITING_MAX} behind the lowest without an answer, and is {} \
         behind request {lowest}: wait for that, try it again, or give it up",
        number.saturating_sub(*lowest)
    )]
    TooManyWaiting {
        /// The number of this one.
        number: u64,
        /// The lowest that has no answer.
        lowest: u64,
    },
    /// The session has used its last number: begin another one.
    #[error("the session has no number left for another request: open another session")]
    Exhausted,
}

impl NumberError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::OtherShard { .. } => 6113,
            Self::TooManyWaiting { .. } => 6114,
            Self::Exhausted => 6118,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        FailureClass::FixRequest
    }
}

/// A session's numbers.
#[derive(Debug)]
pub(crate) struct Numbers {
    ids: BTreeMap<ShardId, u128>,
    /// None: no number is left.
    next: Option<u64>,
    waiting: BTreeMap<u64, Option<Sent>>,
    last: BTreeMap<ShardId, u64>,
}

/// A request on its way to a shard; what it was before, should it not be taken.
#[derive(Debug)]
#[must_use = "it is submitted, or taken back"]
pub(crate) struct Numbered {
    pub(crate) request: RequestId,
    shard: ShardId,
    before: Option<Option<Sent>>,
    is_new: bool,
}

impl Numbers {
    /// Goes on from a state.
    pub(crate) fn of(state: SessionState) -> Self {
        let SessionState { ids, next, waiting, last } = state;
        let used = waiting.keys().last().copied().max(last.values().max().copied()).unwrap_or(0);
        let mut numbers = Self { ids, next, waiting, last };
        numbers.use_up(used);
        numbers
    }

    pub(crate) fn state(&self) -> SessionState {
        let (ids, waiting, last) = (self.ids.clone(), self.waiting.clone(), self.last.clone());
        SessionState { ids, next: self.next, waiting, last }
    }

    /// A number that was never used, and is waited for from here on.
    pub(crate) fn take(&mut self) -> Result<u64, NumberError> {
        let number = self.next.ok_or(NumberError::Exhausted)?;
        self.lowest_with(number)?;
        self.use_up(number);
        self.waiting.insert(number, None);
        Ok(number)
    }

    /// What a request says of itself that goes to this shard now, by this number or by a new one.
    pub(crate) fn submit(&mut self, number: Option<u64>, shard: ShardId) -> Result<Numbered, NumberError> {
        let is_new = number.is_none();
        let number = number.or(self.next).ok_or(NumberError::Exhausted)?;
        let ack_low = self.lowest_with(number)?;
        let before = self.waiting.get(&number).copied();
        let after = match before.flatten() {
            // There it may have been executed: here it would be so a second time.
            Some(sent) if sent.shard != shard => {
                return Err(NumberError::OtherShard { number, first: sent.shard, now: shard });
            }
            Some(sent) => sent.after,
            None => self.before(number, shard),
        };
        // Nobody else takes the number from here on.
        self.use_up(number);
        self.waiting.insert(number, Some(Sent { shard, after }));
        // A shard that the session is not known to says so itself: 1 is no id.
        let session = self.ids.get(&shard).copied().unwrap_or(1);
        Ok(Numbered { request: RequestId { session, number, ack_low, after }, shard, before, is_new })
    }

    /// The request is on its way.
    pub(crate) fn submitted(&mut self, Numbered { request, shard, .. }: Numbered) {
        let number = request.number;
        self.last.entry(shard).and_modify(|last| *last = number.max(*last)).or_insert(number);
    }

    /// The request was not taken: as it was, a number that was not in use before is not waited for.
    pub(crate) fn take_back(&mut self, Numbered { request, before, is_new, .. }: Numbered) {
        let number = request.number;
        match before {
            Some(before) => drop(self.waiting.insert(number, before)),
            None => drop(self.waiting.remove(&number)),
        }
        // Nobody has heard of the number, and nobody took one after it.
        if is_new && self.next == number.checked_add(1) {
            self.next = Some(number);
        }
    }

    /// This came of a request: is it waited for no more?
    pub(crate) fn answered(&mut self, number: u64, outcome: &Outcome) {
        if !matches!(outcome, Outcome::Rejected(Rejection::OutOfOrder { .. })) {
            self.waiting.remove(&number);
        }
    }

    /// Nobody waits for this one any more.
    pub(crate) fn give_up(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    pub(crate) fn is_waiting(&self, number: u64) -> bool {
        self.waiting.contains_key(&number)
    }

    /// Its id in each shard.
    pub(crate) const fn ids(&self) -> &BTreeMap<ShardId, u128> {
        &self.ids
    }

    /// The lowest number that is waited for when this one is, too.
    fn lowest_with(&self, number: u64) -> Result<u64, NumberError> {
        let lowest = self.waiting.keys().next().map_or(number, |lowest| number.min(*lowest));
        if number - lowest >= REQUESTS_WAITING_MAX {
            return Err(NumberError::TooManyWaiting { number, lowest });
        }
        Ok(lowest)
    }

    /// This number is used: what comes next is above it.
    fn use_up(&mut self, number: u64) {
        self.next = match self.next {
            Some(next) if next <= number => number.checked_add(1),
            next => next,
        };
    }

    /// The session's request before this one in the shard.
    fn before(&self, number: u64, shard: ShardId) -> u64 {
        let last = self.last.get(&shard).copied().unwrap_or(0);
        if last < number {
            return last;
        }
        // Later ones are there already. Those before it that have their answer are no matter of order any more.
        let earlier = self.waiting.range(..number).rev();
        let mut in_shard = earlier.filter(|(_, sent)| sent.is_some_and(|sent| sent.shard == shard));
        in_shard.next().map_or(0, |(number, _)| *number)
    }
}
