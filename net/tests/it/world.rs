//! Two connections and the wire between them, in one readable struct.

use std::time::Duration;

use bytes::Bytes;
use towline_net::frame::{FrameFlags, FrameHeader};
use towline_net::{Connection, ConnectionConfig, Event, Identity, Limits, Role, SendFlags, Side};

pub(crate) const CLUSTER: [u8; 16] = *b"cluster-of-tests";
pub(crate) const DIALER_NONCE: [u8; 16] = [0x11; 16];
pub(crate) const ACCEPTOR_NONCE: [u8; 16] = [0x22; 16];

pub(crate) fn identity(node: u64) -> Identity {
    Identity { cluster: CLUSTER, node, directory: [node as u8; 16], incarnation: 1, role: Role::Node }
}

pub(crate) fn config(side: Side) -> ConnectionConfig {
    let (node, nonce) = match side {
        Side::Dialer => (1, DIALER_NONCE),
        Side::Acceptor => (2, ACCEPTOR_NONCE),
    };
    ConnectionConfig {
        expect_cluster: Some(CLUSTER),
        limits: small_limits(),
        ..ConnectionConfig::new(identity(node), nonce)
    }
}

/// Small enough that a test reaches each of them.
pub(crate) fn small_limits() -> Limits {
    Limits {
        frame_bytes_max: 1024,
        stream_window: 16 << 10,
        connection_window: 64 << 10,
        message_bytes_max: 12 << 10,
        streams_max: 16,
        send_buffer_max: 256 << 10,
    }
}

pub(crate) fn plain() -> SendFlags {
    SendFlags::default()
}

pub(crate) struct World {
    pub(crate) dialer: Connection,
    pub(crate) acceptor: Connection,
    pub(crate) now: Duration,
    /// All that went from the dialer to the acceptor, and back.
    pub(crate) there: Vec<u8>,
    pub(crate) back: Vec<u8>,
}

impl World {
    pub(crate) fn new(dialer: ConnectionConfig, acceptor: ConnectionConfig) -> Self {
        Self {
            dialer: Connection::new(Side::Dialer, dialer, Duration::ZERO).unwrap(),
            acceptor: Connection::new(Side::Acceptor, acceptor, Duration::ZERO).unwrap(),
            now: Duration::ZERO,
            there: Vec::new(),
            back: Vec::new(),
        }
    }

    /// Two that have shaken hands; their Ready events are taken.
    pub(crate) fn ready() -> Self {
        let mut world = Self::new(config(Side::Dialer), config(Side::Acceptor));
        world.settle();
        assert!(matches!(world.dialer.poll_event(), Some(Event::Ready { .. })));
        assert!(matches!(world.acceptor.poll_event(), Some(Event::Ready { .. })));
        world
    }

    /// Delivers until nobody has anything to say.
    pub(crate) fn settle(&mut self) {
        loop {
            let there = take(&mut self.dialer, self.now);
            let back = take(&mut self.acceptor, self.now);
            if there.is_empty() && back.is_empty() {
                return;
            }
            // An error shows as Closed.
            let _ended = self.acceptor.receive(self.now, &there);
            let _ended = self.dialer.receive(self.now, &back);
            self.there.extend(there);
            self.back.extend(back);
            self.dialer.check();
            self.acceptor.check();
        }
    }
}

/// All that a connection would say now, in one piece.
pub(crate) fn take(connection: &mut Connection, now: Duration) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(slices) = connection.poll_transmit(now, 1 << 20) {
        out.extend(slices.concat());
    }
    out
}

pub(crate) fn events(connection: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| connection.poll_event()).collect()
}

/// Takes all messages and gives their credit back.
pub(crate) fn consume(connection: &mut Connection) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while let Some(event) = connection.poll_event() {
        if let Event::Message { stream, bytes, charge, .. } = event {
            connection.consumed(stream, charge);
            messages.push(bytes);
        }
    }
    messages
}

/// Cuts a byte stream into its frames: header and payload.
pub(crate) fn frames(mut bytes: &[u8], seed: impl Fn(usize) -> u32) -> Vec<(FrameHeader, Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<24>().expect("a whole header");
        let header = FrameHeader::decode(head, seed(frames.len())).expect("a header with a good checksum");
        let (payload, rest) = rest.split_at(header.length as usize);
        frames.push((header, payload.to_vec()));
        bytes = rest;
    }
    frames
}

pub(crate) fn session_seed() -> u32 {
    towline_net::frame::session_seed(&DIALER_NONCE, &ACCEPTOR_NONCE)
}

/// A frame by hand, its checksums right.
pub(crate) fn frame(seed: u32, sequence: u32, kind: u8, lane: u8, flags: u16, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = FrameHeader::for_payload(kind, payload, sequence);
    header.lane = lane;
    header.flags = FrameFlags(flags);
    header.stream = stream;
    if flags & FrameFlags::CHECKSUMMED.0 != 0 {
        header.payload_crc = 0;
    }
    [&header.encode(seed)[..], payload].concat()
}
