//! Credits: absolute limits on the bytes of a stream and of a connection since their beginning.
//!
//! A limit that is absolute can be repeated or lost without harm; increments leak or deadlock. The receiver counts
//! what came and what its consumer is done with; the sender counts what it committed to send. The same two structs
//! count streams, where the unit is one stream.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::cast_possible_truncation)]

/// The sender's view: how much it may send, and what it has promised to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendCredit {
    limit: u64,
    committed: u64,
}

impl SendCredit {
    pub(crate) const fn new(limit: u64) -> Self {
        Self { limit, committed: 0 }
    }

    /// A limit from the peer. Lower than the one known: an older word, without effect.
    pub(crate) fn raise(&mut self, limit: u64) -> bool {
        let raised = limit > self.limit;
        self.limit = self.limit.max(limit);
        raised
    }

    pub(crate) const fn available(&self) -> u64 {
        self.limit.saturating_sub(self.committed)
    }

    pub(crate) fn commit(&mut self, cost: u64) {
        assert!(cost <= self.available(), "a sender commits only to what it was granted");
        self.committed = self.committed.saturating_add(cost);
    }

    /// Gives back what was committed to and will not be sent, because its stream was reset.
    pub(crate) fn release(&mut self, unsent: u64) {
        assert!(unsent <= self.committed, "only what was committed comes back");
        self.committed = self.committed.saturating_sub(unsent);
    }
}

/// The receiver's view: what it granted, what came, what its consumer is done with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveCredit {
    window: u64,
    received: u64,
    consumed: u64,
    advertised: u64,
}

/// The peer used more than it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overrun {
    pub(crate) used: u64,
    pub(crate) granted: u64,
}

impl ReceiveCredit {
    pub(crate) const fn new(window: u64) -> Self {
        Self { window, received: 0, consumed: 0, advertised: window }
    }

    pub(crate) const fn check(&self, cost: u64) -> Result<(), Overrun> {
        let used = self.received.saturating_add(cost);
        if used > self.advertised { Err(Overrun { used, granted: self.advertised }) } else { Ok(()) }
    }

    pub(crate) fn on_received(&mut self, cost: u64) -> Result<(), Overrun> {
        self.check(cost)?;
        self.received = self.received.saturating_add(cost);
        Ok(())
    }

    /// The consumer is done with `cost`; never more than came.
    pub(crate) fn on_consumed(&mut self, cost: u64) {
        assert!(cost <= self.unconsumed(), "nothing is consumed that did not come");
        self.consumed = self.consumed.saturating_add(cost);
    }

    pub(crate) const fn unconsumed(&self) -> u64 {
        self.received.saturating_sub(self.consumed)
    }

    /// Whether an eighth of the window has come together since the last word about it. Less often would let the
    /// sender run dry, more often would cost a frame for each message.
    pub(crate) fn update_is_due(&self) -> bool {
        let gained = self.limit().saturating_sub(self.advertised);
        gained > 0 && gained >= self.window / 8
    }

    /// Advertises all that may be granted now.
    pub(crate) fn advertise(&mut self) -> u64 {
        self.advertised = self.limit();
        self.advertised
    }

    const fn limit(&self) -> u64 {
        self.consumed.saturating_add(self.window)
    }

    pub(crate) fn assert_sound(&self) {
        assert!(self.consumed <= self.received, "consumed <= received");
        assert!(self.received <= self.advertised, "received <= advertised");
        assert!(self.advertised <= self.limit(), "advertised <= consumed + window");
    }
}
