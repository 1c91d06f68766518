//! Frames around the handshake, in any order and mix, to a side that is configured as the input likes: greetings that are
//! true but for a field or two, tags of any kind and length, refusals, frames that come too early.
//!
//! (`connection_bytes` has one handshake, a true one, and goes on from there.) An acceptor must be silent until it has
//! heard a Hello. Ready must come once at most, first of all events, and only with a peer that passes every check of the
//! protocol's chapter, done again here by other code. A side that has ended says one frame more at most. Nothing before
//! Ready is kept but one Hello, and a second connection, which gets every byte by itself, comes to the same end.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use towline_net::frame::{FrameHeader, FrameKind, session_seed};
use towline_net::hello::{Hello, HelloAck, Refusal};
use towline_net::{
    Connection, ConnectionConfig, Event, Features, Identity, Lane, PeerHello, ProtocolRange, Role, Side, StreamKind,
};

const OURS: [u8; 16] = [1; 16];
const THEIRS: [u8; 16] = [2; 16];
const HEADER_BYTES: usize = 24;

#[derive(Arbitrary, Debug)]
struct Input {
    acceptor: bool,
    own: Own,
    steps: Vec<Step>,
}

/// How this side is configured.
#[derive(Arbitrary, Debug)]
struct Own {
    is_client: bool,
    expect_cluster: bool,
    expect_node: Option<bool>,
    lowest: u8,
    highest: u8,
    cap: Option<u8>,
    needed: u8,
    offered: u8,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A Hello or a welcome.
    Greet {
        greeting: Greeting,
        chosen: Option<u8>,
        sequence: u8,
        /// More tags behind it: unknown ones, or known ones twice.
        tags: Vec<(u16, Vec<u8>)>,
    },
    Refuse {
        code: u16,
        range: Option<(u8, u8)>,
    },
    /// Any payload behind the magic, under good checksums.
    Tags {
        kind: u8,
        tags: Vec<(u16, Vec<u8>)>,
    },
    Frame {
        kind: u8,
        flags: u16,
        stream: u8,
        sequence: u8,
        of_session: bool,
        payload: Vec<u8>,
    },
    Bytes(Vec<u8>),
    Wait {
        ms: u16,
    },
    Transmit {
        max: u16,
    },
    Open,
    Drain,
    TransportEnded,
}

/// A greeting that is true where the input says nothing else.
#[derive(Arbitrary, Debug)]
struct Greeting {
    cluster: Option<bool>,
    node: Option<bool>,
    role: Option<u8>,
    range: Option<(u8, u8)>,
    needed: u8,
    offered: u8,
    stream_window: Option<u32>,
    frame_bytes_max: Option<u32>,
}

fuzz_target!(|input: Input| run(input));

fn run(input: Input) {
    let side = if input.acceptor { Side::Acceptor } else { Side::Dialer };
    let config = input.own.config();
    let now = Duration::ZERO;
    let (Ok(whole), Ok(split)) = (Connection::new(side, config, now), Connection::new(side, config, now)) else {
        assert!(config.validate().is_err(), "a configuration is refused at once or not at all");
        return;
    };
    let mut subjects = [(Subject::new(whole, config), usize::MAX), (Subject::new(split, config), 1)];
    let seed = match side {
        Side::Acceptor => session_seed(&THEIRS, &OURS),
        Side::Dialer => session_seed(&OURS, &THEIRS),
    };
    let mut now = now;
    for step in input.steps {
        if let Step::Wait { ms } = step {
            now += Duration::from_millis(u64::from(ms));
        }
        let bytes = step.bytes(side, seed);
        for (subject, piece) in &mut subjects {
            subject.act(now, &step);
            for piece in bytes.chunks((*piece).min(bytes.len()).max(1)) {
                subject.receive(now, piece);
            }
        }
        let [(whole, _), (split, _)] = &subjects;
        assert_eq!(whole.events, split.events, "the same bytes, cut otherwise, are other events");
        assert_eq!(whole.said, split.said, "and another answer");
    }
}

impl Own {
    fn config(&self) -> ConnectionConfig {
        let (role, cluster) = if self.is_client { (Role::Client, [0; 16]) } else { (Role::Node, [7; 16]) };
        let identity = Identity { cluster, node: 1, directory: [1; 16], incarnation: 1, role };
        let mut config = ConnectionConfig::new(identity, OURS);
        config.expect_cluster = self.expect_cluster.then_some([7; 16]);
        config.expect_node = self.expect_node.map(|known| if known { 2 } else { 3 });
        config.protocol = ProtocolRange::new(u16::from(self.lowest), u16::from(self.highest));
        config.protocol_cap = self.cap.map(u16::from);
        config.features = Features { needed: u64::from(self.needed), offered: u64::from(self.offered) };
        config
    }
}

impl Greeting {
    fn hello(&self) -> Hello {
        let cluster = match self.cluster {
            None => [7; 16],
            Some(true) => [0; 16],
            Some(false) => [9; 16],
        };
        let node = if self.node.is_none() { 2 } else { 4 };
        let identity = Identity { cluster, node, directory: [2; 16], incarnation: 1, role: Role::Node };
        let mut hello = ConnectionConfig::new(identity, THEIRS).hello();
        hello.identity.role = match self.role {
            None | Some(1) => Role::Node,
            Some(2) => Role::Client,
            Some(other) => Role::Unknown(other),
        };
        if let Some((lowest, highest)) = self.range {
            hello.protocol = ProtocolRange::new(u16::from(lowest), u16::from(highest));
        }
        hello.features = Features { needed: u64::from(self.needed), offered: u64::from(self.offered) };
        if let Some(window) = self.stream_window {
            hello.limits.stream_window = u64::from(window);
        }
        if let Some(max) = self.frame_bytes_max {
            hello.limits.frame_bytes_max = max;
        }
        hello
    }
}

impl Step {
    /// What the peer says.
    fn bytes(&self, side: Side, seed: u32) -> Vec<u8> {
        let awaited = if side == Side::Acceptor { FrameKind::Hello } else { FrameKind::HelloAck }.to_wire();
        match self {
            Self::Greet { greeting, chosen, sequence, tags } => {
                let hello = greeting.hello();
                let mut payload = match chosen {
                    Some(version) => HelloAck::Welcome { version: u16::from(*version), hello }.encode(),
                    None => hello.encode(),
                };
                append(&mut payload, tags);
                frame(0, awaited, 0, 0, u32::from(*sequence), &payload)
            }
            Self::Refuse { code, range } => {
                let refusal = match range {
                    Some((lowest, highest)) => {
                        let range = ProtocolRange::new(u16::from(*lowest), u16::from(*highest));
                        Refusal::of_versions(*code, range, range)
                    }
                    None => Refusal::new(*code),
                };
                frame(0, awaited, 0, 0, 0, &HelloAck::Refusal(refusal).encode())
            }
            Self::Tags { kind, tags } => {
                let mut payload = b"TOWLINE\0".to_vec();
                append(&mut payload, tags);
                frame(0, *kind % 4, 0, 0, 0, &payload)
            }
            Self::Frame { kind, flags, stream, sequence, of_session, payload } => {
                let seed = if *of_session { seed } else { 0 };
                frame(seed, *kind, *flags, u32::from(*stream), u32::from(*sequence), payload)
            }
            Self::Bytes(bytes) => bytes.clone(),
            _ => Vec::new(),
        }
    }
}

fn append(payload: &mut Vec<u8>, tags: &[(u16, Vec<u8>)]) {
    for (tag, value) in tags {
        let value = &value[..value.len().min(300)];
        payload.extend(tag.to_le_bytes());
        payload.extend((value.len() as u16).to_le_bytes());
        payload.extend(value);
    }
}

fn frame(seed: u32, kind: u8, flags: u16, stream: u32, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(5000)];
    let mut header = FrameHeader::for_payload(kind, payload, sequence);
    header.flags.0 = flags;
    header.stream = stream;
    let mut bytes = header.encode(seed).to_vec();
    bytes.extend(payload);
    bytes
}

struct Subject {
    connection: Connection,
    config: ConnectionConfig,
    events: Vec<Event>,
    /// Everything that it said, asked for after each step that may have made it speak.
    said: Vec<u8>,
    has_heard: bool,
    /// Frames said since the end.
    last_words: usize,
}

impl Subject {
    fn new(connection: Connection, config: ConnectionConfig) -> Self {
        Self { connection, config, events: Vec::new(), said: Vec::new(), has_heard: false, last_words: 0 }
    }

    fn receive(&mut self, now: Duration, piece: &[u8]) {
        let was_closed = self.connection.is_closed();
        self.has_heard = true;
        let result = self.connection.receive(now, piece);
        assert_eq!(result.is_err(), self.connection.is_closed(), "an error closes, and the end is an error");
        assert!(!was_closed || self.connection.is_closed(), "closed is for good");
        self.settle();
    }

    fn act(&mut self, now: Duration, step: &Step) {
        match step {
            Step::Wait { .. } => self.connection.tick(now),
            Step::Transmit { max } => {
                let said = self.connection.poll_transmit(now, usize::from(*max).max(1)).unwrap_or_default().concat();
                self.listen(&said);
            }
            Step::Open => {
                let opened = self.connection.open(StreamKind::Request, Lane::Request);
                assert!(opened.is_err() || self.connection.is_ready(), "no stream before the handshake is over");
            }
            Step::Drain => self.connection.go_away(towline_net::GoAwayCode::RESTART),
            Step::TransportEnded => self.connection.transport_ended(),
            _ => {}
        }
        self.settle();
    }

    fn listen(&mut self, said: &[u8]) {
        let is_acceptor = self.connection.side() == Side::Acceptor;
        assert!(said.is_empty() || !is_acceptor || self.has_heard, "an acceptor is silent until it has heard somebody");
        if self.connection.is_closed() && self.connection.peer().is_none() {
            let mut rest = said;
            while rest.len() >= HEADER_BYTES {
                let length = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
                rest = &rest[(HEADER_BYTES + length).min(rest.len())..];
                self.last_words += 1;
            }
            assert!(self.last_words <= 1, "one word after the end, to a peer that never was one");
        }
        self.said.extend(said);
    }

    fn settle(&mut self) {
        self.connection.check();
        while let Some(event) = self.connection.poll_event() {
            if let Event::Ready { peer } = &event {
                assert!(self.events.is_empty(), "Ready comes first, and once");
                self.assert_welcome(peer);
            }
            assert!(!matches!(self.events.last(), Some(Event::Closed { .. })), "an event after the end: {event:?}");
            self.events.push(event);
        }
    }

    /// Everything that the chapter says is checked, once more.
    fn assert_welcome(&self, peer: &PeerHello) {
        let (config, who) = (&self.config, peer.identity);
        let is_acceptor = self.connection.side() == Side::Acceptor;
        let is_open = who.cluster == [0; 16];
        assert!(!is_open || who.role == Role::Client, "a node without a cluster was let in");
        if let Some(cluster) = config.expect_cluster {
            assert!(who.cluster == cluster || (is_open && is_acceptor), "another cluster was let in");
        }
        assert!(config.expect_node.is_none_or(|node| node == who.node), "another node was let in");
        let own_highest = config.protocol.highest.min(config.protocol_cap.unwrap_or(u16::MAX));
        assert_eq!(peer.protocol, own_highest.min(peer.protocol_range.highest));
        assert!(peer.protocol >= config.protocol.lowest && peer.protocol >= peer.protocol_range.lowest);
        assert_eq!(config.features.needed & !peer.features, 0, "what this side needs is agreed");
        assert_eq!(peer.features & !config.features.offered, 0, "nothing is agreed that this side does not offer");
        let limits = peer.limits;
        assert!((1024..=4 << 20).contains(&limits.frame_bytes_max) && limits.message_bytes_max > 0);
        assert!(limits.message_bytes_max + 64 <= limits.stream_window - limits.stream_window / 8);
    }
}
