//! What must be true of a connection between any two calls.

use crate::frame::StreamId;
use crate::lane::Lane;
use crate::limits::MESSAGE_OVERHEAD;
use crate::stream::{Outgoing, ReceiveState, SendState, Stream};

use super::Connection;

impl Connection {
    /// Asserts the invariants of flow control and of the books (I10). The simulator and the tests call it after every
    /// step; it reads every stream.
    ///
    /// # Panics
    /// When one does not hold: a bug in this crate.
    pub fn check(&self) {
        self.receive_credit.assert_sound();
        self.accept_credit.assert_sound();
        if self.is_closed() {
            assert!(self.streams.is_empty(), "a closed connection holds nothing for its streams");
            return;
        }
        let mut unconsumed = 0;
        for (id, stream) in &self.streams {
            assert_sound(*id, stream);
            unconsumed += stream.receive.credit.unconsumed();
        }
        assert_eq!(unconsumed, self.receive_credit.unconsumed(), "the connection holds what its streams hold");
        for lane in Lane::ALL {
            self.check_lane(lane);
        }
        let peers = self.streams.values().filter(|stream| stream.is_peers).count() as u64;
        assert_eq!(peers, self.accept_credit.unconsumed(), "the peer's streams are counted");
    }

    fn check_lane(&self, lane: Lane) {
        let queue = &self.lanes[lane.index()];
        let queued: u64 = self.streams.values().filter(|stream| stream.lane == lane).map(unsent).sum();
        assert_eq!(queue.queued, queued, "{lane:?}: queued is what the streams have queued");
        assert!(queue.queued <= self.config.limits.send_buffer_max, "{lane:?}: within the send buffer");
        let scheduled = |id: &StreamId| self.streams.get(id).is_some_and(|stream| stream.send.is_scheduled);
        assert!(queue.turns.iter().all(scheduled), "{lane:?}: only scheduled streams have turns");
        assert!(queue.waiting.is_none_or(|id| scheduled(&id)), "{lane:?}: who waits has work");
    }
}

fn assert_sound(id: StreamId, stream: &Stream) {
    stream.receive.credit.assert_sound();
    let assembly = stream.receive.assembly.as_ref();
    assert!(
        assembly.is_none_or(|assembly| stream.receive.state == ReceiveState::Open
            && assembly.charge <= stream.receive.credit.unconsumed()),
        "stream {id}: a message in parts is counted, and only while it is wanted"
    );
    let send = &stream.send;
    assert!(send.is_started || send.offset == 0, "stream {id}: no byte goes before the message has its credit");
    assert_eq!(send.is_scheduled, send.has_work(), "stream {id}: in the turns exactly when it has work");
    assert!(
        !matches!(send.state, SendState::Resetting(_) | SendState::Ended) || send.queue.is_empty(),
        "stream {id}: nothing is queued after the end"
    );
    assert!(!stream.is_over(), "stream {id}: what is over is forgotten");
}

/// What a stream's queue still costs.
fn unsent(stream: &Stream) -> u64 {
    let costs: u64 = stream.send.queue.iter().map(Outgoing::cost).sum();
    costs - if stream.send.offset == 0 { 0 } else { MESSAGE_OVERHEAD + stream.send.offset as u64 }
}
