// What examples of the documentation begin with and do not show: they include this file as a module. No target of its own.

use std::time::Duration;

use bytes::Bytes;
use towline_net::frame::{FrameHeader, session_seed};
use towline_net::{Connection, ConnectionConfig, Event, Identity, Limits, Role, Side};

/// When most of it happens.
pub const NOW: Duration = Duration::ZERO;

/// Limits that are soon reached: the peer may send four messages of 4,000 bytes that nobody consumes.
pub const SMALL: Limits = Limits {
    frame_bytes_max: 1024,
    stream_window: 16 << 10,
    connection_window: 64 << 10,
    message_bytes_max: 12 << 10,
    streams_max: 1,
    send_buffer_max: 16 << 10,
};

/// What a node brings to a handshake.
pub fn config(node: u8) -> ConnectionConfig {
    let who = Identity { cluster: [7; 16], node: node.into(), directory: [node; 16], incarnation: 1, role: Role::Node };
    ConnectionConfig::new(who, [node; 16])
}

/// All that a side has to say, in one piece.
pub fn said(connection: &mut Connection, now: Duration) -> Vec<u8> {
    std::iter::from_fn(|| connection.poll_transmit(now, 1 << 20)).flatten().flatten().collect()
}

/// Delivers until neither side has anything to say.
pub fn exchange(one: &mut Connection, other: &mut Connection, now: Duration) {
    loop {
        let (there, back) = (said(one, now), said(other, now));
        if there.is_empty() && back.is_empty() {
            return;
        }
        // An error shows as Closed.
        let _ended = other.receive(now, &there);
        let _ended = one.receive(now, &back);
    }
}

/// A dialer and an acceptor when their handshake is over, whatever came of it.
pub fn meet(dialer: ConnectionConfig, acceptor: ConnectionConfig) -> (Connection, Connection) {
    let mut dialer = Connection::new(Side::Dialer, dialer, NOW).unwrap();
    let mut acceptor = Connection::new(Side::Acceptor, acceptor, NOW).unwrap();
    exchange(&mut dialer, &mut acceptor, NOW);
    (dialer, acceptor)
}

/// Nodes 1 and 2 with these limits, ready; the events that say so are taken.
pub fn ready(limits: Limits) -> (Connection, Connection) {
    let limited = |node| ConnectionConfig { limits, ..config(node) };
    let (mut dialer, mut acceptor) = meet(limited(1), limited(2));
    assert!(matches!(dialer.poll_event(), Some(Event::Ready { .. })));
    assert!(matches!(acceptor.poll_event(), Some(Event::Ready { .. })));
    (dialer, acceptor)
}

/// Takes all events, consumes the messages among them, and returns those.
pub fn messages(connection: &mut Connection) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while let Some(event) = connection.poll_event() {
        if let Event::Message { stream, bytes, charge, .. } = event {
            connection.consumed(stream, charge);
            messages.push(bytes);
        }
    }
    messages
}

/// The seed of the session of nodes 1 and 2.
pub fn seed() -> u32 {
    session_seed(&config(1).nonce, &config(2).nonce)
}

/// The headers of these frames of that session.
pub fn headers(mut bytes: &[u8]) -> Vec<FrameHeader> {
    let mut headers = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let header = FrameHeader::decode(head, seed()).unwrap();
        bytes = &rest[header.length as usize..];
        headers.push(header);
    }
    headers
}
