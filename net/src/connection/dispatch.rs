//! The effect of each kind of frame.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::time::Duration;

use crate::credit::Overrun;
use crate::error::{ConnectionError, GoAwayCode, ResetCode};
use crate::event::Event;
use crate::frame::{FrameFlags, FrameHeader, FrameKind, StreamId, StreamKind};
use crate::lane::Lane;
use crate::limits::MESSAGE_OVERHEAD;
use crate::stream::{Assembly, ReceiveState, SendState, Stream};

use super::{Connection, Side};

impl Connection {
    pub(super) fn on_control(
        &mut self,
        now: Duration,
        header: &FrameHeader,
        kind: FrameKind,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let stream = StreamId::new(header.stream);
        let malformed = ConnectionError::Malformed { kind: header.kind, what: "wrong length" };
        match kind {
            FrameKind::Hello | FrameKind::HelloAck => self.on_greeting(payload),
            FrameKind::Open => self.on_open(stream, header.lane, payload.try_into().map_err(|_| malformed)?),
            FrameKind::Credit => {
                let limit = u64::from_le_bytes(payload.try_into().map_err(|_| malformed)?);
                self.on_credit(stream, header.flags.contains(FrameFlags::STREAMS), limit)
            }
            FrameKind::Reset => {
                let code = u32::from_le_bytes(payload.try_into().map_err(|_| malformed)?);
                self.on_reset(stream, ResetCode(code))
            }
            FrameKind::Ping => {
                self.outbound.pong = Some(u64::from_le_bytes(payload.try_into().map_err(|_| malformed)?));
                Ok(())
            }
            FrameKind::Pong => {
                let token = u64::from_le_bytes(payload.try_into().map_err(|_| malformed)?);
                self.liveness.on_pong(now, token);
                self.ping_for_drain(now);
                self.end_drain_if_empty();
                Ok(())
            }
            FrameKind::GoAway => {
                let [c0, c1, c2, c3, ..]: [u8; 8] = payload.try_into().map_err(|_| malformed)?;
                self.on_go_away(GoAwayCode(u32::from_le_bytes([c0, c1, c2, c3])))
            }
            FrameKind::Data => Err(malformed),
        }
    }

    fn on_open(&mut self, id: StreamId, lane: u8, payload: [u8; 4]) -> Result<(), ConnectionError> {
        let malformed = |what| ConnectionError::Malformed { kind: FrameKind::Open.to_wire(), what };
        let [k0, k1, reserved @ ..] = payload;
        let lane = Lane::from_wire(lane).ok_or_else(|| malformed("unknown lane"))?;
        if reserved != [0, 0] {
            return Err(malformed("reserved bytes are not zero"));
        }
        if id.get() != self.next_remote {
            return Err(ConnectionError::StreamState {
                stream: id,
                what: "streams are opened in order, without holes",
            });
        }
        self.accept_credit
            .on_received(1)
            .map_err(|overrun| ConnectionError::StreamsExceeded { granted: overrun.granted })?;
        self.next_remote = self.next_remote.checked_add(2).ok_or_else(|| malformed("stream numbers have run out"))?;
        let peer_window = self.peer.map_or(0, |peer| peer.limits.stream_window);
        self.streams.insert(id, Stream::new(lane, true, peer_window, self.config.limits.stream_window));
        let kind = StreamKind::from_wire(u16::from_le_bytes([k0, k1]));
        match kind {
            Some(kind) if self.drains_here.is_none() => self.push_event(Event::Opened { stream: id, kind, lane }),
            Some(_) => self.reset(id, ResetCode::REFUSED),
            None => self.reset(id, ResetCode::UNKNOWN_STREAM_KIND),
        }
        Ok(())
    }

    /// The end of a stream that was opened and is forgotten by now is no news; one that never was is an error.
    fn is_past(&self, id: StreamId) -> bool {
        let is_peers = id.is_dialers() == (self.side == Side::Acceptor);
        let next = if is_peers { self.next_remote } else { self.next_local };
        id.get() < next
    }

    fn on_credit(&mut self, id: StreamId, counts_streams: bool, limit: u64) -> Result<(), ConnectionError> {
        if counts_streams {
            self.open_credit.raise(limit);
        } else if id == StreamId::CONNECTION {
            self.send_credit.raise(limit);
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.credit.raise(limit);
            stream.send.is_stalled = false;
        } else if !self.is_past(id) {
            return Err(ConnectionError::StreamState { stream: id, what: "credit for a stream that never was" });
        }
        Ok(())
    }

    fn on_reset(&mut self, id: StreamId, code: ResetCode) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.get_mut(&id) else {
            if self.is_past(id) {
                return Ok(());
            }
            return Err(ConnectionError::StreamState { stream: id, what: "reset of a stream that never was" });
        };
        if stream.receive.state == ReceiveState::Reset {
            // Each would be an event: a peer could have us queue any number of them.
            return Err(ConnectionError::StreamState { stream: id, what: "a second reset" });
        }
        // After this side's own Reset, and after both ENDs, the layer above is done with the stream.
        let was_known = stream.receive.state == ReceiveState::Discarding
            || (stream.receive.state == ReceiveState::Ended && stream.send.state == SendState::Ended);
        stream.receive.state = ReceiveState::Reset;
        // Each side of a reset stream says END or Reset once, so both know when nothing more comes.
        if !matches!(stream.send.state, SendState::Ended | SendState::Resetting(_)) {
            stream.send.state = SendState::Resetting(ResetCode::ANSWERED);
            self.outbound.resets.insert(id);
        }
        self.drop_assembly(id);
        self.drop_outgoing(id);
        if !was_known {
            self.push_event(Event::Reset { stream: id, code });
        }
        self.retire_if_over(id);
        Ok(())
    }

    /// A Data header came: checks it against the stream and the credits, and counts it, before its payload is read.
    pub(super) fn admit_data(&mut self, header: &FrameHeader) -> Result<(), ConnectionError> {
        let id = StreamId::new(header.stream);
        let broken = |what| ConnectionError::StreamState { stream: id, what };
        let message_bytes_max = self.config.limits.message_bytes_max;
        let stream = self.streams.get_mut(&id).ok_or_else(|| broken("data on a stream that is not open"))?;
        let (is_end, has_more) = (header.flags.contains(FrameFlags::END), header.flags.contains(FrameFlags::MORE));
        if header.lane != stream.lane.to_wire() {
            return Err(broken("data on another lane than the stream's"));
        }
        if matches!(stream.receive.state, ReceiveState::Ended | ReceiveState::Reset) {
            return Err(broken("data after the end"));
        }
        let is_first = !stream.receive.is_mid_message;
        if is_end {
            if header.flags != FrameFlags::END || header.length != 0 || !is_first {
                return Err(broken("an end with data, or within a message"));
            }
            return Ok(());
        }
        if !header.flags.is_within(FrameFlags::MORE.with(FrameFlags::CHECKSUMMED)) {
            return Err(broken("unknown flags"));
        }
        if header.length == 0 && (has_more || !is_first) {
            return Err(broken("an empty fragment"));
        }
        let length = u64::from(header.length);
        let charge = if is_first { length.saturating_add(MESSAGE_OVERHEAD) } else { length };
        let flow = |stream, Overrun { used, granted }| ConnectionError::FlowViolation { stream, used, granted };
        stream.receive.credit.on_received(charge).map_err(|overrun| flow(id, overrun))?;
        self.receive_credit.on_received(charge).map_err(|overrun| flow(StreamId::CONNECTION, overrun))?;
        stream.receive.is_mid_message = has_more;
        if stream.receive.state == ReceiveState::Discarding {
            stream.receive.credit.on_consumed(charge);
            self.receive_credit.on_consumed(charge);
            return Ok(());
        }
        let checksummed = header.flags.contains(FrameFlags::CHECKSUMMED);
        let assembly = stream.receive.assembly.get_or_insert_with(|| Assembly { checksummed, ..Assembly::default() });
        if assembly.checksummed != checksummed {
            return Err(broken("fragments disagree about the checksum"));
        }
        assembly.charge = assembly.charge.saturating_add(charge);
        if assembly.charge > message_bytes_max.saturating_add(MESSAGE_OVERHEAD) {
            return Err(ConnectionError::MessageTooLong { stream: id, max: message_bytes_max });
        }
        Ok(())
    }

    /// Some bytes of a fragment; `expected` is what the frame still had to bring, these included.
    pub(super) fn keep_data(&mut self, id: StreamId, piece: &[u8], expected: usize) {
        let assembly = self.streams.get_mut(&id).and_then(|stream| stream.receive.assembly.as_mut());
        if let Some(assembly) = assembly {
            // At most a frame, which was checked against the limits and the credit.
            assembly.bytes.reserve(expected);
            assembly.bytes.extend_from_slice(piece);
        } else {
            self.stats.bytes_discarded = self.stats.bytes_discarded.saturating_add(piece.len() as u64);
        }
    }

    /// A fragment is complete and whole.
    pub(super) fn on_data(&mut self, id: StreamId, flags: FrameFlags) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if flags.contains(FrameFlags::END) {
            let was_known = stream.receive.state == ReceiveState::Discarding;
            stream.receive.state = ReceiveState::Ended;
            if !was_known {
                self.push_event(Event::Finished { stream: id });
            }
            self.retire_if_over(id);
            return;
        }
        if flags.contains(FrameFlags::MORE) {
            return;
        }
        let Some(assembly) = stream.receive.assembly.take() else {
            return;
        };
        self.stats.messages_received = self.stats.messages_received.saturating_add(1);
        self.push_event(Event::Message {
            stream: id,
            bytes: assembly.bytes.freeze(),
            charge: usize::try_from(assembly.charge).unwrap_or(usize::MAX),
            checksummed: assembly.checksummed,
        });
    }
}
