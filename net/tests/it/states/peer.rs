//! One side under test, and its peer by hand.

use std::time::Duration;

use towline_net::frame::{FrameFlags, FrameHeader};
use towline_net::hello::HelloAck;
use towline_net::{Connection, ConnectionConfig, Event, Side};

use crate::world::{config, frame, session_seed, take};

/// What the side under test said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) header: FrameHeader,
    pub(super) payload: Vec<u8>,
}

pub(super) struct World {
    pub(super) side: Side,
    pub(super) one: Connection,
    pub(super) now: Duration,
    /// The number of the peer's next frame.
    pub(super) sequence: u32,
    has_spoken: bool,
}

pub(super) const DATA: u8 = 4;
pub(super) const PING: u8 = 7;
pub(super) const END: u16 = FrameFlags::END.0;
const MORE: u16 = FrameFlags::MORE.0;

impl World {
    /// At its beginning.
    pub(super) fn new(side: Side, config: ConnectionConfig) -> Self {
        let one = Connection::new(side, config, Duration::ZERO).unwrap();
        Self { side, one, now: Duration::ZERO, sequence: 0, has_spoken: false }
    }

    /// With its handshake behind it.
    pub(super) fn ready(side: Side) -> Self {
        let mut world = Self::new(side, config(side));
        world.greet(&config(world.other()));
        world.said();
        assert!(matches!(world.one.poll_event(), Some(Event::Ready { .. })));
        world
    }

    pub(super) const fn other(&self) -> Side {
        match self.side {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        }
    }

    /// The peer says its Hello, or its welcome.
    pub(super) fn greet(&mut self, peer: &ConnectionConfig) {
        match self.side {
            Side::Acceptor => self.tell_greeting(&peer.hello().encode()),
            Side::Dialer => self.tell_greeting(&HelloAck::Welcome { version: 1, hello: peer.hello() }.encode()),
        }
    }

    pub(super) fn tell_greeting(&mut self, payload: &[u8]) {
        let kind = if self.side == Side::Acceptor { 1 } else { 2 };
        self.tell_bytes(&frame(0, 0, kind, 0, 0, 0, payload));
        self.sequence = 1;
    }

    /// Whatever comes of it shows in what is said, and in the state.
    pub(super) fn tell_bytes(&mut self, bytes: &[u8]) {
        let _shows = self.one.receive(self.now, bytes);
        self.one.check();
    }

    pub(super) fn tell(&mut self, kind: u8, lane: u8, flags: u16, stream: u32, payload: &[u8]) {
        let bytes = frame(session_seed(), self.sequence, kind, lane, flags, stream, payload);
        self.sequence += 1;
        self.tell_bytes(&bytes);
    }

    /// A message in fragments, on the lane of requests.
    pub(super) fn tell_message(&mut self, stream: u32, mut bytes: &[u8]) {
        while bytes.len() > 1024 {
            let (piece, rest) = bytes.split_at(1024);
            self.tell(DATA, 2, MORE, stream, piece);
            bytes = rest;
        }
        self.tell(DATA, 2, 0, stream, bytes);
    }

    pub(super) fn tell_end(&mut self, stream: u32) {
        self.tell(DATA, 2, END, stream, &[]);
    }

    pub(super) fn tell_open(&mut self, stream: u32) {
        self.tell(3, 2, 0, stream, &[1, 0, 0, 0]);
    }

    pub(super) fn tell_credit(&mut self, stream: u32, limit: u64) {
        self.tell(5, 0, 0, stream, &limit.to_le_bytes());
    }

    pub(super) fn tell_reset(&mut self, stream: u32, code: u32) {
        self.tell(6, 0, 0, stream, &code.to_le_bytes());
    }

    pub(super) fn tell_go_away(&mut self, code: u32) {
        self.tell(9, 0, 0, 0, &[code.to_le_bytes(), [0; 4]].concat());
    }

    /// The peer answers the Ping among these.
    pub(super) fn tell_pong(&mut self, said: &[Frame]) {
        let ping = said.iter().find(|frame| frame.header.kind == PING).expect("a ping");
        self.tell(8, 0, 0, 0, &ping.payload);
    }

    /// The number of the first stream that this side opens.
    pub(super) const fn first_stream(side: Side) -> u32 {
        match side {
            Side::Dialer => 1,
            Side::Acceptor => 2,
        }
    }

    /// What was said since the last call.
    pub(super) fn said(&mut self) -> Vec<Frame> {
        let bytes = take(&mut self.one, self.now);
        let is_first = !self.has_spoken;
        self.has_spoken |= !bytes.is_empty();
        let seed = |index| if is_first && index == 0 { 0 } else { session_seed() };
        crate::world::frames(&bytes, seed).into_iter().map(|(header, payload)| Frame { header, payload }).collect()
    }
}

impl Frame {
    pub(super) fn code(&self) -> u32 {
        u32::from_le_bytes(self.payload[..4].try_into().unwrap())
    }

    /// In the words of the book, the number in place of 'the code' and its like.
    pub(super) fn words(&self) -> String {
        match self.header.kind {
            1 => "Hello".into(),
            2 => match HelloAck::decode(&self.payload).unwrap() {
                HelloAck::Welcome { .. } => "HelloAck, a welcome".into(),
                HelloAck::Refusal(refusal) => format!("HelloAck, a refusal with {}", refusal.code),
                newer => panic!("{newer:?}"),
            },
            3 => "Open".into(),
            4 if self.header.flags.contains(FrameFlags::END) => "Data with END".into(),
            4 => "Data".into(),
            5 if self.header.stream == 0 => "Credit of the connection".into(),
            5 => "Credit".into(),
            6 => format!("Reset {}", self.code()),
            7 => "Ping".into(),
            8 => format!("Pong {:?}", self.payload),
            9 => format!("GoAway {}", self.code()),
            kind => panic!("kind {kind}"),
        }
    }
}

pub(super) fn words(said: &[Frame]) -> String {
    if said.is_empty() { "nothing".into() } else { said.iter().map(Frame::words).collect::<Vec<_>>().join(", then ") }
}
