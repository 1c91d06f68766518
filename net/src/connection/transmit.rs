//! What goes next: control frames, then the lanes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::GoAwayCode;
use crate::event::Event;
use crate::frame::{FrameFlags, FrameHeader, FrameKind, StreamId, StreamKind};
use crate::lane::{Lane, QUANTUM};
use crate::limits::{HEADER_BYTES, MESSAGE_OVERHEAD, usable_by_data};
use crate::stream::SendState;

use super::{Connection, Farewell, Phase};

/// A frame before it has its number and its checksums.
struct Frame {
    kind: FrameKind,
    lane: Lane,
    flags: FrameFlags,
    stream: StreamId,
    payload: Bytes,
}

/// What a stream could do with a turn.
enum Turn {
    /// Nothing is queued.
    Idle,
    /// A message waits for credit.
    Blocked,
    /// A fragment or END may go.
    Ready,
}

impl Connection {
    /// Bytes for the wire, in order: about `max` of them, or a little more (one frame at most). Payloads are the
    /// buffers given to [`Self::send`], not copies; headers and very small payloads stand together in buffers of
    /// their own. `None`: nothing may go now.
    ///
    /// What was handed out must be written, all of it and in order. Ask for little at a time (as much as the kernel
    /// takes without blocking): what was handed out can't be overtaken by a more urgent lane.
    pub fn poll_transmit(&mut self, now: Duration, max: usize) -> Option<Vec<Bytes>> {
        let mut batch = Batch::default();
        while batch.bytes < max {
            let Some(frame) = self.next_frame(now) else {
                break;
            };
            self.encode(frame, &mut batch);
        }
        self.end_drain_if_empty();
        batch.finish()
    }

    fn encode(&mut self, frame: Frame, batch: &mut Batch) {
        let is_hello = matches!(frame.kind, FrameKind::Hello | FrameKind::HelloAck);
        let seed = if is_hello { 0 } else { self.session_seed.unwrap_or(0) };
        let payload_crc =
            if frame.flags.contains(FrameFlags::CHECKSUMMED) { 0 } else { crc32fast::hash(&frame.payload) };
        let header = FrameHeader {
            // A fragment is no longer than the agreed maximum, which is a u32.
            length: u32::try_from(frame.payload.len()).unwrap_or(u32::MAX),
            kind: frame.kind.to_wire(),
            lane: frame.lane.to_wire(),
            flags: frame.flags,
            stream: frame.stream.get(),
            payload_crc,
            sequence: self.outbound.sequence,
        };
        self.outbound.sequence = self.outbound.sequence.wrapping_add(1);
        self.stats.frames_sent += 1;
        self.stats.bytes_sent += (HEADER_BYTES + frame.payload.len()) as u64;
        batch.push(&header.encode(seed), frame.payload);
    }

    fn next_frame(&mut self, now: Duration) -> Option<Frame> {
        if let Some((kind, payload)) = self.outbound.hello.take() {
            return Some(control(kind, StreamId::CONNECTION, payload));
        }
        match self.phase {
            Phase::Greeting => None,
            Phase::Closed(_) => self.farewell(),
            Phase::Ready => self.next_control(now).or_else(|| self.next_stream_control()).or_else(|| self.next_data()),
        }
    }

    fn farewell(&mut self) -> Option<Frame> {
        Some(match self.outbound.farewell.take()? {
            Farewell::Refusal(payload) => control(FrameKind::HelloAck, StreamId::CONNECTION, payload),
            Farewell::GoAway(code) => self.go_away_frame(code),
        })
    }

    fn go_away_frame(&self, code: GoAwayCode) -> Frame {
        let last = self.next_remote.saturating_sub(2);
        let payload = [code.0.to_le_bytes(), last.to_le_bytes()].concat();
        control(FrameKind::GoAway, StreamId::CONNECTION, payload)
    }

    /// Frames of the connection as a whole.
    fn next_control(&mut self, now: Duration) -> Option<Frame> {
        let connection = StreamId::CONNECTION;
        if let Some(token) = self.outbound.pong.take() {
            return Some(control(FrameKind::Pong, connection, token.to_le_bytes().to_vec()));
        }
        if let Some(token) = self.outbound.ping.take() {
            self.liveness.on_ping_sent(now, token);
            return Some(control(FrameKind::Ping, connection, token.to_le_bytes().to_vec()));
        }
        if self.receive_credit.update_is_due() {
            let limit = self.receive_credit.advertise();
            return Some(control(FrameKind::Credit, connection, limit.to_le_bytes().to_vec()));
        }
        if self.accept_credit.update_is_due() {
            let limit = self.accept_credit.advertise();
            let mut frame = control(FrameKind::Credit, connection, limit.to_le_bytes().to_vec());
            frame.flags = FrameFlags::STREAMS;
            return Some(frame);
        }
        let code = self.outbound.go_away.take()?;
        self.ask_whether_drain_is_heard(now);
        Some(self.go_away_frame(code))
    }

    /// Frames about streams: Opens in the order of their numbers, and before anything that names the stream.
    fn next_stream_control(&mut self) -> Option<Frame> {
        while let Some(id) = self.outbound.credits.pop_first() {
            if let Some(stream) = self.streams.get_mut(&id) {
                let limit = stream.receive.credit.advertise();
                return Some(control(FrameKind::Credit, id, limit.to_le_bytes().to_vec()));
            }
        }
        if let Some((id, kind, lane)) = self.outbound.opens.pop_front() {
            let mut frame = control(FrameKind::Open, id, open_payload(kind));
            frame.lane = lane;
            return Some(frame);
        }
        while let Some(id) = self.outbound.resets.pop_first() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            let SendState::Resetting(code) = stream.send.state else {
                continue;
            };
            stream.send.state = SendState::Ended;
            self.retire_if_over(id);
            return Some(control(FrameKind::Reset, id, code.0.to_le_bytes().to_vec()));
        }
        None
    }

    fn next_data(&mut self) -> Option<Frame> {
        let frame = Lane::ALL.into_iter().find_map(|lane| self.next_in_lane(lane))?;
        self.liveness.progressed();
        Some(frame)
    }

    /// The next frame of a lane, by turns.
    fn next_in_lane(&mut self, lane: Lane) -> Option<Frame> {
        loop {
            let mut somebody_may = false;
            for _ in 0..self.lanes[lane.index()].turns.len() {
                let Some(&id) = self.lanes[lane.index()].turns.front() else {
                    break;
                };
                match self.turn_of(id, lane) {
                    Turn::Idle => self.leave_turns(id, lane),
                    Turn::Blocked => self.lanes[lane.index()].turns.rotate_left(1),
                    Turn::Ready => {
                        somebody_may = true;
                        let stream = self.streams.get_mut(&id)?;
                        if stream.send.deficit > 0 {
                            return self.take_turn(id, lane);
                        }
                        stream.send.deficit += QUANTUM;
                        self.lanes[lane.index()].turns.rotate_left(1);
                    }
                }
            }
            if !somebody_may {
                return None;
            }
        }
    }

    fn leave_turns(&mut self, id: StreamId, lane: Lane) {
        self.lanes[lane.index()].turns.pop_front();
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.is_scheduled = false;
            stream.send.deficit = 0;
        }
    }

    /// Whether a stream may send. A message is started only when the credit of its stream and of the connection
    /// covers all of it; otherwise parts of several messages could use up the connection's credit and none of them
    /// ever be complete.
    fn turn_of(&mut self, id: StreamId, lane: Lane) -> Turn {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Turn::Idle;
        };
        let Some(message) = stream.send.queue.front() else {
            return if stream.send.state == SendState::Finishing { Turn::Ready } else { Turn::Idle };
        };
        if stream.send.is_started {
            return Turn::Ready;
        }
        let cost = message.cost();
        if stream.send.credit.available() < cost {
            self.stats.stream_stalls += u64::from(!stream.send.is_stalled);
            stream.send.is_stalled = true;
            return Turn::Blocked;
        }
        let others = self.lanes[..=lane.index()].iter().any(|lane| lane.waiting.is_some_and(|waiting| waiting != id));
        if others {
            return Turn::Blocked;
        }
        let window = self.peer.map_or(0, |peer| peer.limits.connection_window);
        let reserve = if lane == Lane::Control { 0 } else { window - usable_by_data(window) };
        let waiting = &mut self.lanes[lane.index()].waiting;
        if self.send_credit.available() < cost.saturating_add(reserve) {
            self.stats.connection_stalls += u64::from(waiting.is_none());
            *waiting = Some(id);
            return Turn::Blocked;
        }
        *waiting = None;
        Turn::Ready
    }

    /// The stream's next fragment, or its END.
    fn take_turn(&mut self, id: StreamId, lane: Lane) -> Option<Frame> {
        let fragment_max = self.frame_bytes_max() as usize;
        let stream = self.streams.get_mut(&id)?;
        let send = &mut stream.send;
        let Some(message) = send.queue.front() else {
            send.state = SendState::Ended;
            self.leave_turns(id, lane);
            self.retire_if_over(id);
            return Some(Frame {
                kind: FrameKind::Data,
                lane,
                flags: FrameFlags::END,
                stream: id,
                payload: Bytes::new(),
            });
        };
        if !send.is_started {
            send.is_started = true;
            send.credit.commit(message.cost());
            self.send_credit.commit(message.cost());
        }
        let end = message.bytes.len().min(send.offset + fragment_max);
        let payload = message.bytes.slice(send.offset..end);
        let is_last = end == message.bytes.len();
        let overhead = if send.offset == 0 { MESSAGE_OVERHEAD } else { 0 };
        let mut flags = if is_last { FrameFlags::NONE } else { FrameFlags::MORE };
        if message.checksummed {
            flags = flags.with(FrameFlags::CHECKSUMMED);
        }
        send.offset = end;
        send.deficit -= i64::try_from(HEADER_BYTES + payload.len()).unwrap_or(i64::MAX);
        if is_last {
            send.queue.pop_front();
            if send.queue.is_empty() && send.queue.capacity() > QUEUE_KEPT_MAX {
                send.queue = VecDeque::new();
            }
            send.offset = 0;
            send.is_started = false;
            self.stats.messages_sent += 1;
        }
        let has_work = send.has_work();
        self.lanes[lane.index()].queued -= payload.len() as u64 + overhead;
        if !has_work {
            self.leave_turns(id, lane);
        }
        self.announce_room(lane);
        Some(Frame { kind: FrameKind::Data, lane, flags, stream: id, payload })
    }

    /// Tells those whose message was refused that half of the lane's buffer is free again; less would wake them for
    /// nothing.
    pub(super) fn announce_room(&mut self, lane: Lane) {
        let half = self.config.limits.send_buffer_max / 2;
        let queue = &mut self.lanes[lane.index()];
        if queue.queued > half || queue.wants_room.is_empty() {
            return;
        }
        for id in std::mem::take(&mut queue.wants_room) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.send.wants_room = false;
            }
            self.push_event(Event::Writable { stream: id });
        }
    }
}

fn control(kind: FrameKind, stream: StreamId, payload: Vec<u8>) -> Frame {
    Frame { kind, lane: Lane::Control, flags: FrameFlags::NONE, stream, payload: payload.into() }
}

fn open_payload(kind: StreamKind) -> Vec<u8> {
    let mut payload = kind.to_wire().to_le_bytes().to_vec();
    payload.put_u16_le(0);
    payload
}

/// Frames on their way out: small things copied together, large payloads as they are.
#[derive(Default)]
struct Batch {
    out: Vec<Bytes>,
    joined: BytesMut,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, header: &[u8; HEADER_BYTES], payload: Bytes) {
        self.bytes += header.len() + payload.len();
        self.joined.extend_from_slice(header);
        if payload.len() <= JOINED_PAYLOAD_MAX {
            self.joined.extend_from_slice(&payload);
        } else {
            self.out.push(self.joined.split().freeze());
            self.out.push(payload);
        }
    }

    fn finish(mut self) -> Option<Vec<Bytes>> {
        if !self.joined.is_empty() {
            self.out.push(self.joined.freeze());
        }
        (!self.out.is_empty()).then_some(self.out)
    }
}

/// Places for messages that a stream keeps when none is queued: 8 KiB. What a burst made of more is given back.
const QUEUE_KEPT_MAX: usize = 200;

/// Below this, a copy costs less than one more element of a vectored write.
const JOINED_PAYLOAD_MAX: usize = 512;
