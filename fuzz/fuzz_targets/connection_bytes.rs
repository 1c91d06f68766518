//! Any bytes and any frames to a connection, while its own side opens, sends, consumes and closes as it likes.
//!
//! It must neither panic nor break its own rules (`check` after every step), hold no more than its limits say, say
//! nothing after it closed, and give the same events however the bytes were cut into pieces: a second connection
//! gets every byte by itself.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use towline_net::frame::{FrameFlags, FrameHeader, StreamId, session_seed};
use towline_net::{
    Connection, ConnectionConfig, Event, GoAwayCode, Identity, Lane, Limits, ResetCode, Role, SendFlags, Side,
    StreamKind,
};

const OURS: [u8; 16] = [1; 16];
const THEIRS: [u8; 16] = [2; 16];
/// Small, so that a small input reaches every bound.
const LIMITS: Limits = Limits {
    frame_bytes_max: 1024,
    stream_window: 8 << 10,
    connection_window: 16 << 10,
    message_bytes_max: 4 << 10,
    streams_max: 8,
    send_buffer_max: 8 << 10,
};
/// Bytes that one step may bring, so that the second connection, which gets them one by one, stays quick.
const STEP_BYTES_MAX: usize = 2048;

#[derive(Arbitrary, Debug)]
struct Input {
    acceptor: bool,
    /// Whether a true handshake comes first; without it everything is said to a stranger.
    handshake: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// A frame whose checksums fit.
    Frame {
        kind: u8,
        lane: u8,
        flags: u16,
        stream: u8,
        payload: Vec<u8>,
        skip: bool,
    },
    /// A frame that says more than it brings.
    Announce {
        kind: u8,
        flags: u16,
        stream: u8,
        length: u32,
    },
    Wait {
        ms: u16,
    },
    Open {
        kind: u8,
        lane: u8,
    },
    Send {
        stream: u8,
        bytes: u16,
        checksummed: bool,
    },
    /// The consumer is done with the messages that came so far.
    Consume,
    Transmit {
        max: u16,
    },
    Finish {
        stream: u8,
    },
    Reset {
        stream: u8,
        code: u32,
    },
    GoAway {
        code: u32,
    },
    TransportEnded,
}

/// One side of a pair that must behave alike.
struct Subject {
    connection: Connection,
    events: Vec<Event>,
    unconsumed: Vec<(StreamId, usize)>,
    closed: bool,
}

fuzz_target!(|input: Input| run(input));

fn run(input: Input) {
    let side = if input.acceptor { Side::Acceptor } else { Side::Dialer };
    let mut whole = Subject::new(side);
    let mut split = Subject::new(side);
    let mut now = Duration::ZERO;
    // The peer's frames count from 0, its Hello included.
    let mut sequence = 0;
    if input.handshake {
        for bytes in peers_hello(side) {
            whole.receive(now, &bytes, usize::MAX);
            split.receive(now, &bytes, 1);
        }
        sequence = 1;
    }
    let seed = match side {
        Side::Acceptor => session_seed(&THEIRS, &OURS),
        _ => session_seed(&OURS, &THEIRS),
    };
    for step in input.steps {
        let bytes = match step {
            Step::Bytes(bytes) => bytes,
            Step::Frame { kind, lane, flags, stream, mut payload, skip } => {
                payload.truncate(STEP_BYTES_MAX);
                sequence = u32::wrapping_add(sequence, u32::from(skip));
                let mut header = FrameHeader::for_payload(kind, &payload, sequence);
                header.lane = lane;
                header.flags = FrameFlags(flags);
                header.stream = u32::from(stream);
                if header.flags.contains(FrameFlags::CHECKSUMMED) {
                    header.payload_crc = 0;
                }
                sequence = sequence.wrapping_add(1);
                let mut frame = header.encode(seed).to_vec();
                frame.extend(payload);
                frame
            }
            Step::Announce { kind, flags, stream, length } => {
                let mut header = FrameHeader::for_payload(kind, b"", sequence);
                header.flags = FrameFlags(flags);
                header.stream = u32::from(stream);
                header.length = length;
                header.encode(seed).to_vec()
            }
            own => {
                if let Step::Wait { ms } = own {
                    now += Duration::from_millis(u64::from(ms));
                }
                whole.act(now, &own);
                split.act(now, &own);
                Vec::new()
            }
        };
        let bytes = &bytes[..bytes.len().min(STEP_BYTES_MAX)];
        whole.receive(now, bytes, usize::MAX);
        split.receive(now, bytes, 1);
        assert_eq!(whole.events, split.events, "the same bytes, cut otherwise, are other events");
    }
}

/// What a well-behaved peer on the other side says first.
fn peers_hello(side: Side) -> Vec<Bytes> {
    let now = Duration::ZERO;
    let (ours, theirs) = match side {
        Side::Acceptor => (Side::Acceptor, Side::Dialer),
        _ => (Side::Dialer, Side::Acceptor),
    };
    let mut peer = Connection::new(theirs, config(2, THEIRS), now).expect("the limits fit each other");
    if ours == Side::Dialer {
        let mut asking = Connection::new(ours, config(1, OURS), now).expect("the limits fit each other");
        for bytes in asking.poll_transmit(now, usize::MAX).unwrap_or_default() {
            peer.receive(now, &bytes).expect("a true Hello is taken");
        }
    }
    peer.poll_transmit(now, usize::MAX).unwrap_or_default()
}

fn config(node: u64, nonce: [u8; 16]) -> ConnectionConfig {
    let directory = [nonce[0]; 16];
    let identity = Identity { cluster: [7; 16], node, directory, incarnation: 1, role: Role::Node };
    let mut config = ConnectionConfig::new(identity, nonce);
    config.limits = LIMITS;
    config
}

impl Subject {
    fn new(side: Side) -> Self {
        let connection = Connection::new(side, config(1, OURS), Duration::ZERO).expect("the limits fit each other");
        Self { connection, events: Vec::new(), unconsumed: Vec::new(), closed: false }
    }

    fn receive(&mut self, now: Duration, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece.min(bytes.len()).max(1)) {
            let before = self.connection.is_closed();
            let result = self.connection.receive(now, piece);
            assert!(result.is_ok() || self.connection.is_closed(), "an error closes");
            assert!(!before || self.connection.is_closed(), "closed is for good");
            self.settle();
        }
    }

    fn act(&mut self, now: Duration, step: &Step) {
        match *step {
            Step::Wait { .. } => {
                self.connection.tick(now);
                let _ = self.connection.next_deadline();
            }
            Step::Open { kind, lane } => {
                let kinds = [
                    StreamKind::Request,
                    StreamKind::Replication,
                    StreamKind::Snapshot,
                    StreamKind::Feed,
                    StreamKind::Control,
                ];
                let kind = kinds[usize::from(kind) % kinds.len()];
                if let Ok(stream) = self.connection.open(kind, Lane::ALL[usize::from(lane) % 4]) {
                    assert_ne!(stream, StreamId::CONNECTION, "the connection itself is no stream to open");
                }
            }
            Step::Send { stream, bytes, checksummed } => {
                let stream = StreamId::new(u32::from(stream));
                let room = self.connection.send_capacity(stream);
                let mut flags = SendFlags::default();
                flags.checksummed = checksummed;
                let sent = self.connection.send(stream, Bytes::from(vec![0; usize::from(bytes)]), flags);
                assert!(sent.is_err() || usize::from(bytes) <= room, "more was taken than there was room for");
            }
            Step::Consume => {
                for (stream, charge) in self.unconsumed.drain(..) {
                    self.connection.consumed(stream, charge);
                }
            }
            Step::Transmit { max } => {
                drop(self.connection.poll_transmit(now, usize::from(max)));
            }
            Step::Finish { stream } => self.connection.finish(StreamId::new(u32::from(stream))),
            Step::Reset { stream, code } => {
                self.connection.reset(StreamId::new(u32::from(stream)), ResetCode(code));
            }
            Step::GoAway { code } => self.connection.go_away(GoAwayCode(code)),
            Step::TransportEnded => self.connection.transport_ended(),
            Step::Bytes(_) | Step::Frame { .. } | Step::Announce { .. } => {}
        }
        self.settle();
    }

    /// Takes the events, and looks whether everything still holds.
    fn settle(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            assert!(!self.closed, "an event after the end: {event:?}");
            match &event {
                Event::Message { stream, bytes, charge, .. } => {
                    assert!(bytes.len() as u64 <= LIMITS.message_bytes_max);
                    self.unconsumed.push((*stream, *charge));
                }
                Event::Closed { .. } => self.closed = true,
                _ => {}
            }
            self.events.push(event);
        }
        self.connection.check();
        let held: usize = self.unconsumed.iter().map(|(_, charge)| charge).sum();
        assert!(held as u64 <= LIMITS.connection_window, "a peer had us hold {held} bytes");
        assert!(self.connection.queued_bytes() <= 4 * LIMITS.send_buffer_max);
    }
}
