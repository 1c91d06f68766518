//! What the layer above does with streams.

use bytes::Bytes;

use crate::error::{ConnectionError, OpenError, ResetCode, SendError};
use crate::frame::{StreamId, StreamKind};
use crate::lane::Lane;
use crate::limits::MESSAGE_OVERHEAD;
use crate::stream::{Outgoing, ReceiveState, SendFlags, SendState, Stream, message_cost};

use super::{Connection, Phase};

impl Connection {
    /// Opens a stream. The peer hears of it before its first message.
    ///
    /// # Errors
    /// [`OpenError`]: before Ready, while draining, after the end, with as many streams open as the peer takes, or with no
    /// number left for one.
    pub fn open(&mut self, kind: StreamKind, lane: Lane) -> Result<StreamId, OpenError> {
        let peer = match (&self.phase, &self.peer) {
            (Phase::Closed(_), _) => return Err(OpenError::ConnectionClosed),
            (Phase::Ready, Some(peer)) => *peer,
            _ => return Err(OpenError::NotReady),
        };
        if self.drains_there || self.drains_here.is_some() {
            return Err(OpenError::Draining);
        }
        let next = self.next_local.checked_add(2).ok_or(OpenError::NumbersUsedUp)?;
        if self.open_credit.available() == 0 {
            return Err(OpenError::StreamsExhausted);
        }
        self.open_credit.commit(1);
        let id = StreamId::new(self.next_local);
        self.next_local = next;
        self.streams.insert(id, Stream::new(lane, false, peer.limits.stream_window, self.config.limits.stream_window));
        self.outbound.opens.push_back((id, kind, lane));
        Ok(id)
    }

    /// Queues a whole message. It waits here for its turn and for credit, which is a cost of this side's memory that
    /// [`SendError::Full`] bounds.
    ///
    /// # Errors
    /// [`SendError`]; nothing of the message was queued then.
    pub fn send(&mut self, id: StreamId, bytes: Bytes, flags: SendFlags) -> Result<(), SendError> {
        let (Phase::Ready, Some(peer)) = (&self.phase, &self.peer) else {
            return Err(SendError::ConnectionClosed);
        };
        let send_buffer_max = self.config.limits.send_buffer_max;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.send.state == SendState::Open) else {
            return Err(SendError::StreamClosed);
        };
        let cost = message_cost(bytes.len());
        let cost_max = peer.limits.message_bytes_max.saturating_add(MESSAGE_OVERHEAD).min(send_buffer_max);
        if cost > cost_max {
            return Err(SendError::TooLong { length: bytes.len() as u64, max: cost_max - MESSAGE_OVERHEAD });
        }
        let lane = &mut self.lanes[stream.lane.index()];
        if lane.queued + cost > send_buffer_max {
            if !std::mem::replace(&mut stream.send.wants_room, true) {
                lane.wants_room.push_back(id);
            }
            self.stats.sends_refused += 1;
            return Err(SendError::Full);
        }
        lane.queued += cost;
        stream.send.queue.push_back(Outgoing { bytes, checksummed: flags.checksummed });
        self.schedule(id);
        Ok(())
    }

    /// How long a message [`Self::send`] takes now on this stream.
    #[must_use]
    pub fn send_capacity(&self, id: StreamId) -> usize {
        let (Phase::Ready, Some(peer), Some(stream)) = (&self.phase, &self.peer, self.streams.get(&id)) else {
            return 0;
        };
        if stream.send.state != SendState::Open {
            return 0;
        }
        let room = self.config.limits.send_buffer_max.saturating_sub(self.lanes[stream.lane.index()].queued);
        let capacity = room.saturating_sub(MESSAGE_OVERHEAD).min(peer.limits.message_bytes_max);
        usize::try_from(capacity).unwrap_or(usize::MAX)
    }

    /// Bytes queued for sending on all streams, 64 more for each message.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.queued).sum()
    }

    /// Bytes that this side holds for the peer: those queued for sending, and those that came and are not consumed.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.queued_bytes().saturating_add(self.receive_credit.unconsumed())
    }

    /// No more messages on this stream from this side; what is queued still goes. The other half stays open.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.send.state == SendState::Open
        {
            stream.send.state = SendState::Finishing;
            self.schedule(id);
        }
    }

    /// Ends a stream abruptly, both halves. What is queued is dropped and what still comes is passed over; messages
    /// among the events already queued are still delivered, and are to be consumed.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !matches!(stream.send.state, SendState::Resetting(_) | SendState::Ended) {
            stream.send.state = SendState::Resetting(code);
            self.outbound.resets.insert(id);
        } else if stream.send.state == SendState::Ended && stream.receive.state == ReceiveState::Open {
            // END went out before: the Reset tells the peer to stop.
            stream.send.state = SendState::Resetting(code);
            self.outbound.resets.insert(id);
        }
        if stream.receive.state == ReceiveState::Open {
            stream.receive.state = ReceiveState::Discarding;
        }
        self.drop_assembly(id);
        self.drop_outgoing(id);
        self.retire_if_over(id);
    }

    /// The consumer is done with `charge` bytes of the stream's messages: durable, applied, answered, whatever it
    /// means by done. Only this gives credit back. Charges may be added up, and given after the stream ended.
    ///
    /// More than was delivered is a bug of the caller: it has no effect (else the peer would be granted memory that
    /// nobody meant) and is counted in [`Stats::overconsumed`](crate::Stats::overconsumed).
    ///
    /// # Panics
    /// With debug assertions, when it is more than was delivered.
    pub fn consumed(&mut self, id: StreamId, charge: usize) {
        if self.is_closed() {
            return;
        }
        let charge = charge as u64;
        let Some(stream) = self.streams.get_mut(&id) else {
            debug_assert!(charge == 0, "consumed {charge} bytes of stream {id}, which holds nothing");
            self.stats.overconsumed += charge;
            return;
        };
        let in_assembly = stream.receive.assembly.as_ref().map_or(0, |assembly| assembly.charge);
        let delivered = stream.receive.credit.unconsumed() - in_assembly;
        debug_assert!(charge <= delivered, "consumed {charge} bytes of stream {id}, which delivered {delivered}");
        self.stats.overconsumed += charge.saturating_sub(delivered);
        let charge = charge.min(delivered);
        stream.receive.credit.on_consumed(charge);
        self.receive_credit.on_consumed(charge);
        if stream.receive.state == ReceiveState::Open && stream.receive.credit.update_is_due() {
            self.outbound.credits.insert(id);
        }
        self.retire_if_over(id);
    }

    /// Gives the stream its place in the lane's turns.
    fn schedule(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.send.is_scheduled
            && stream.send.has_work()
        {
            stream.send.is_scheduled = true;
            self.lanes[stream.lane.index()].turns.push_back(id);
        }
    }

    /// Forgets a message of which some fragments came; its credit goes back.
    pub(super) fn drop_assembly(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && let Some(assembly) = stream.receive.assembly.take()
        {
            stream.receive.credit.on_consumed(assembly.charge);
            self.receive_credit.on_consumed(assembly.charge);
        }
    }

    /// Forgets what is queued on a stream; the connection's credit for what did not go out comes back.
    pub(super) fn drop_outgoing(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let lane = &mut self.lanes[stream.lane.index()];
        let send = &mut stream.send;
        if send.is_started
            && let Some(first) = send.queue.front()
        {
            let sent = if send.offset == 0 { 0 } else { MESSAGE_OVERHEAD + send.offset as u64 };
            self.send_credit.release(first.cost() - sent);
            send.credit.release(first.cost() - sent);
            lane.queued -= first.cost() - sent;
            send.queue.pop_front();
        }
        for message in send.queue.drain(..) {
            lane.queued -= message.cost();
        }
        send.is_started = false;
        send.offset = 0;
        if send.is_scheduled {
            send.is_scheduled = false;
            lane.turns.retain(|turn| *turn != id);
        }
        if lane.waiting == Some(id) {
            lane.waiting = None;
        }
        if std::mem::take(&mut send.wants_room) {
            lane.wants_room.retain(|other| *other != id);
        }
        let lane = stream.lane;
        self.announce_room(lane);
    }

    /// Forgets a stream on which nothing can happen any more; a peer's gives the peer the right to open another.
    pub(super) fn retire_if_over(&mut self, id: StreamId) {
        if !self.streams.get(&id).is_some_and(Stream::is_over) {
            return;
        }
        self.drop_outgoing(id);
        self.outbound.credits.remove(&id);
        if let Some(stream) = self.streams.remove(&id)
            && stream.is_peers
        {
            self.accept_credit.on_consumed(1);
        }
        self.end_drain_if_empty();
    }

    /// Not before the peer has heard of it: an Open that crosses the GoAway is to be answered by a Reset, not by the end.
    pub(super) fn end_drain_if_empty(&mut self) {
        if self.is_drain_heard() && self.is_ready() && self.streams.is_empty() {
            self.fail(ConnectionError::Drained);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connection::{ConnectionConfig, Side};
    use crate::error::FaultClass;
    use crate::identity::{Identity, Role};

    /// It was told as a peer that takes no more for now: wait, and it would be so for ever.
    #[test]
    fn a_connection_without_numbers_for_streams_says_another_thing_than_one_whose_peer_takes_no_more() {
        let now = Duration::ZERO;
        let side = |side, node| {
            let who = Identity { cluster: [7; 16], node, directory: [1; 16], incarnation: 1, role: Role::Node };
            Connection::new(side, ConnectionConfig::new(who, [node as u8; 16]), now).unwrap()
        };
        let (mut dialer, mut acceptor) = (side(Side::Dialer, 1), side(Side::Acceptor, 2));
        let hello = dialer.poll_transmit(now, 1 << 12).unwrap().concat();
        acceptor.receive(now, &hello).unwrap();
        dialer.receive(now, &acceptor.poll_transmit(now, 1 << 12).unwrap().concat()).unwrap();
        dialer.next_local = u32::MAX - 2;
        assert_eq!(dialer.open(StreamKind::Request, Lane::Request).map(StreamId::get), Ok(u32::MAX - 2));
        let refused = dialer.open(StreamKind::Request, Lane::Request).unwrap_err();
        assert_eq!((refused, refused.code(), refused.class()), (OpenError::NumbersUsedUp, 3141, FaultClass::Retry));
    }
}
