//! What hostile peers say, byte by byte (N6, N7, N9, N15): for the test that floods a listener, and for the bench of the transport
//! that measures what an honest client keeps beside them.

use std::time::Duration;

use towline_net::frame::{FrameFlags, FrameHeader, FrameKind, session_seed};
use towline_net::{Connection, ConnectionConfig, Identity, Limits, Role, Side};

/// Small windows: thousands of peers that fill them still fit a small machine.
pub(crate) const LIMITS: Limits = Limits {
    frame_bytes_max: 1024,
    stream_window: 16 << 10,
    connection_window: 64 << 10,
    message_bytes_max: 12 << 10,
    streams_max: 16,
    send_buffer_max: 256 << 10,
};

/// Of a server, or of who dials it: nonces are known, so that an attacker need not read.
pub(crate) fn config(side: Side) -> ConnectionConfig {
    let node = if side == Side::Dialer { 1 } else { 2 };
    let identity = Identity { cluster: [7; 16], node, directory: [9; 16], incarnation: 1, role: Role::Node };
    ConnectionConfig {
        expect_cluster: Some([7; 16]),
        limits: LIMITS,
        ..ConnectionConfig::new(identity, [if node == 1 { 1 } else { 2 }; 16])
    }
}

/// What an attacker does, and as what it is to be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attack {
    /// Not a byte.
    Silence,
    GiantLength,
    Drip,
    BadChecksum,
    Garbage,
    HalfHello,
    /// A whole handshake, then more than was granted.
    Overrun,
    /// A whole handshake, then more streams than were granted.
    Streams,
    /// A whole handshake, then all that was granted and not a byte more, in messages that never end.
    FullWindow,
}

impl Attack {
    pub(crate) const ALL: [Self; 9] = [
        Self::Silence,
        Self::GiantLength,
        Self::Drip,
        Self::BadChecksum,
        Self::Garbage,
        Self::HalfHello,
        Self::Overrun,
        Self::Streams,
        Self::FullWindow,
    ];

    /// The code that the server gives as the reason, and whether the handshake is over by then.
    pub(crate) fn code(self) -> (u16, bool) {
        match self {
            Self::GiantLength => (3003, false),
            Self::Silence | Self::Drip | Self::HalfHello => (3011, false),
            Self::BadChecksum => (3002, false),
            Self::Garbage => (3001, false),
            Self::Overrun => (3008, true),
            Self::Streams => (3010, true),
            Self::FullWindow => (3012, true),
        }
    }

    /// All that it says at once. Nonces are known here, so it need not read.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let seed = session_seed(&config(Side::Dialer).nonce, &config(Side::Acceptor).nonce);
        let hello = hello();
        match self {
            Self::GiantLength => {
                let header = FrameHeader { length: u32::MAX, ..FrameHeader::for_payload(1, b"", 0) };
                [&header.encode(0)[..], &[0; 8192]].concat()
            }
            Self::Silence => Vec::new(),
            Self::Drip => hello.get(..1).unwrap_or_default().to_vec(),
            Self::BadChecksum => {
                let mut spoilt = hello;
                spoilt.iter_mut().skip(60).take(1).for_each(|byte| *byte ^= 1);
                spoilt
            }
            Self::Garbage => vec![0xa5; 6000],
            Self::HalfHello => hello.get(..hello.len() / 2).unwrap_or_default().to_vec(),
            Self::Overrun => [hello, unfinished_messages(seed, 6)].concat(),
            Self::FullWindow => [hello, unfinished_messages(seed, 5)].concat(),
            Self::Streams => {
                let opens = (0..=LIMITS.streams_max).flat_map(|index| open(seed, index + 1, index * 2 + 1));
                hello.into_iter().chain(opens).collect()
            }
        }
    }
}

/// An honest Hello.
pub(crate) fn hello() -> Vec<u8> {
    let dialer = Connection::new(Side::Dialer, config(Side::Dialer), Duration::ZERO).ok();
    dialer.and_then(|mut dialer| dialer.poll_transmit(Duration::ZERO, 1 << 20)).unwrap_or_default().concat()
}

fn open(seed: u32, sequence: u32, stream: u32) -> Vec<u8> {
    let payload = [1, 0, 0, 0];
    let mut header = FrameHeader::for_payload(FrameKind::Open.to_wire(), &payload, sequence);
    (header.stream, header.lane) = (stream, 2);
    [&header.encode(seed)[..], &payload].concat()
}

/// Messages of 12 KiB without their last frame, on as many streams.
fn unfinished_messages(seed: u32, streams: u32) -> Vec<u8> {
    let (mut out, mut sequence) = (Vec::new(), 1);
    for stream in (0..streams).map(|index| index * 2 + 1) {
        out.extend(open(seed, sequence, stream));
        sequence += 1;
        for _ in 0..12 {
            let payload = [0x5a; 1024];
            let mut header = FrameHeader::for_payload(FrameKind::Data.to_wire(), &payload, sequence);
            (header.stream, header.lane, header.flags) = (stream, 2, FrameFlags::MORE);
            out.extend(header.encode(seed));
            out.extend(payload);
            sequence += 1;
        }
    }
    out
}
