//! Properties: any cut of the byte stream, any order of calls, any bytes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use towline_net::{
    Connection, ConnectionError, Event, GoAwayCode, Lane, ResetCode, SendFlags, Side, StreamId, StreamKind,
};

use crate::world::{World, config, events, frame, session_seed, small_limits, take};

/// What the layer above, the wire and the consumers do, in some order.
#[derive(Clone, Debug)]
enum Step {
    Open { side: bool, lane: usize },
    Send { side: bool, stream: usize, length: usize, checksummed: bool },
    Finish { side: bool, stream: usize },
    Reset { side: bool, stream: usize },
    Transmit { side: bool, bytes: usize },
    Deliver { to: bool, bytes: usize },
    TakeEvents { side: bool },
    Consume { side: bool, count: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (any::<bool>(), 0..4_usize).prop_map(|(side, lane)| Step::Open { side, lane }),
        6 => (any::<bool>(), 0..8_usize, prop_oneof![0..100_usize, 0..=12_288_usize], any::<bool>())
            .prop_map(|(side, stream, length, checksummed)| Step::Send { side, stream, length, checksummed }),
        1 => (any::<bool>(), 0..8_usize).prop_map(|(side, stream)| Step::Finish { side, stream }),
        1 => (any::<bool>(), 0..8_usize).prop_map(|(side, stream)| Step::Reset { side, stream }),
        6 => (any::<bool>(), 1..20_000_usize).prop_map(|(side, bytes)| Step::Transmit { side, bytes }),
        8 => (any::<bool>(), 1..20_000_usize).prop_map(|(to, bytes)| Step::Deliver { to, bytes }),
        4 => any::<bool>().prop_map(|side| Step::TakeEvents { side }),
        4 => (any::<bool>(), 1..8_usize).prop_map(|(side, count)| Step::Consume { side, count }),
    ]
}

/// One end: a connection, what was sent and received on each stream, and what its consumers still hold.
struct End {
    connection: Connection,
    outbox: VecDeque<u8>,
    streams: Vec<StreamId>,
    sent: BTreeMap<StreamId, Vec<Bytes>>,
    received: BTreeMap<StreamId, Vec<Bytes>>,
    reset: BTreeMap<StreamId, ()>,
    held: VecDeque<(StreamId, usize)>,
    counter: u8,
}

impl End {
    fn new(side: Side) -> Self {
        Self {
            connection: Connection::new(side, config(side), Duration::ZERO).unwrap(),
            outbox: VecDeque::new(),
            streams: Vec::new(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            reset: BTreeMap::new(),
            held: VecDeque::new(),
            counter: 0,
        }
    }

    fn transmit(&mut self, bytes: usize) {
        if let Some(slices) = self.connection.poll_transmit(Duration::ZERO, bytes) {
            self.outbox.extend(slices.concat());
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Opened { stream, .. } => self.streams.push(stream),
                Event::Message { stream, bytes, charge, .. } => {
                    self.received.entry(stream).or_default().push(bytes);
                    self.held.push_back((stream, charge));
                }
                Event::Reset { stream, .. } => {
                    self.reset.insert(stream, ());
                }
                Event::Closed { reason } => panic!("an honest peer was cut off: {reason}"),
                _ => {}
            }
        }
    }

    fn consume(&mut self, count: usize) {
        for (stream, charge) in self.held.drain(..count.min(self.held.len())) {
            self.connection.consumed(stream, charge);
        }
    }

    fn stream(&self, index: usize) -> Option<StreamId> {
        (!self.streams.is_empty()).then(|| self.streams[self.streams.len() - 1 - index % self.streams.len().min(8)])
    }

    fn receive(&mut self, bytes: &[u8]) {
        // In pieces that the bytes themselves choose.
        for piece in bytes.chunks(1 + usize::from(bytes.first().copied().unwrap_or(0)) * 37) {
            feed(&mut self.connection, piece, piece.len() % 64)
                .unwrap_or_else(|error| panic!("an honest peer was refused: {error}"));
            self.connection.check();
        }
    }
}

/// As a driver gives bytes: straight into messages of whose payload at least so many are missing, and by a copy otherwise.
fn feed(connection: &mut Connection, mut piece: &[u8], least: usize) -> Result<(), ConnectionError> {
    while let Some(mut landing) = connection.landing(least) {
        let room = landing.room();
        assert_eq!(landing.buffer().remaining_mut(), room, "not a byte of the next frame goes into a message");
        let landed = piece.split_off(..room.min(piece.len())).unwrap();
        landing.buffer().put_slice(landed);
        assert_eq!(landing.room(), room - landed.len());
        connection.landed(Duration::ZERO, landing)?;
        if piece.is_empty() {
            return Ok(());
        }
    }
    connection.receive(Duration::ZERO, piece)
}

struct Ends([End; 2]);

impl Ends {
    fn apply(&mut self, step: &Step) {
        let [one, other] = &mut self.0;
        match *step {
            Step::Open { side, lane } => {
                let end = if side { one } else { other };
                if let Ok(stream) = end.connection.open(StreamKind::Feed, Lane::ALL[lane]) {
                    end.streams.push(stream);
                }
            }
            Step::Send { side, stream, length, checksummed } => {
                let end = if side { one } else { other };
                let Some(stream) = end.stream(stream) else {
                    return;
                };
                end.counter = end.counter.wrapping_add(1);
                let message = Bytes::from(vec![end.counter; length]);
                if end.connection.send(stream, message.clone(), SendFlags { checksummed }).is_ok() {
                    end.sent.entry(stream).or_default().push(message);
                }
            }
            Step::Finish { side, stream } => {
                let end = if side { one } else { other };
                let Some(stream) = end.stream(stream) else {
                    return;
                };
                end.connection.finish(stream);
            }
            Step::Reset { side, stream } => {
                let end = if side { one } else { other };
                let Some(stream) = end.stream(stream) else {
                    return;
                };
                end.connection.reset(stream, ResetCode::CANCELLED);
                end.reset.insert(stream, ());
            }
            Step::Transmit { side, bytes } => (if side { one } else { other }).transmit(bytes),
            Step::Deliver { to, bytes } => {
                let (from, to) = if to { (other, one) } else { (one, other) };
                let bytes: Vec<u8> = from.outbox.drain(..bytes.min(from.outbox.len())).collect();
                to.receive(&bytes);
            }
            Step::TakeEvents { side } => (if side { one } else { other }).take_events(),
            Step::Consume { side, count } => (if side { one } else { other }).consume(count),
        }
        self.check();
    }

    /// What must hold after every step, on top of the connection's own invariants.
    fn check(&self) {
        let limits = small_limits();
        for end in &self.0 {
            end.connection.check();
            let stats = end.connection.stats();
            assert!(stats.unconsumed_bytes <= limits.connection_window);
            assert!(stats.queued_bytes <= 4 * limits.send_buffer_max);
            assert_eq!(stats.overconsumed, 0);
        }
    }

    /// Everything goes through and everybody consumes.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 2 {
            let before = self.activity();
            for side in [true, false] {
                self.apply(&Step::Transmit { side, bytes: usize::MAX });
                self.apply(&Step::Deliver { to: !side, bytes: usize::MAX });
                self.apply(&Step::TakeEvents { side: !side });
                self.apply(&Step::Consume { side: !side, count: usize::MAX });
            }
            quiet = if self.activity() == before { quiet + 1 } else { 0 };
        }
    }

    fn activity(&self) -> [u64; 4] {
        let [one, other] = [self.0[0].connection.stats(), self.0[1].connection.stats()];
        [one.bytes_sent, other.bytes_sent, one.bytes_received, other.bytes_received]
    }
}

proptest! {
    /// Whatever is called in whatever order: nobody overruns anybody, messages come whole and in order, credit is
    /// conserved (all that is given out comes back), and nothing waits for ever.
    #[test]
    fn credits_are_conserved_and_every_message_arrives_in_any_interleaving(steps in vec(step(), 1..300)) {
        let mut ends = Ends([End::new(Side::Dialer), End::new(Side::Acceptor)]);
        ends.settle();
        for step in &steps {
            ends.apply(step);
        }
        ends.settle();
        let [one, other] = &ends.0;
        for (from, to) in [(one, other), (other, one)] {
            prop_assert_eq!(from.connection.queued_bytes(), 0, "something waits for ever");
            prop_assert_eq!(to.connection.stats().unconsumed_bytes, 0, "credit leaked");
            for (stream, sent) in &from.sent {
                let nothing = Vec::new();
                let received = to.received.get(stream).unwrap_or(&nothing);
                let was_reset = from.reset.contains_key(stream) || to.reset.contains_key(stream);
                if was_reset {
                    prop_assert_eq!(received, &sent[..received.len()], "a prefix of what was sent");
                } else {
                    prop_assert_eq!(received, sent);
                }
            }
        }
        // Nothing leaked: messages that need nearly the whole windows still go.
        for side in [0, 1] {
            let connection = &mut ends.0[side].connection;
            if let Ok(stream) = connection.open(StreamKind::Snapshot, Lane::Bulk) {
                for _ in 0..10 {
                    connection.send(stream, vec![0; 12 << 10].into(), SendFlags::default()).unwrap();
                }
                ends.settle();
                prop_assert_eq!(ends.0[side].connection.queued_bytes(), 0);
            }
        }
    }

    /// Any split or merge of the byte stream gives the same events.
    #[test]
    fn any_cut_of_the_byte_stream_gives_the_same_events(
        messages in vec((0..4_usize, 0..3_000_usize), 1..10),
        cuts in vec(1..2_000_usize, 1..200),
    ) {
        let mut world = World::ready();
        let streams: Vec<_> = Lane::ALL.map(|lane| world.dialer.open(StreamKind::Feed, lane).unwrap()).into();
        for (index, length) in messages {
            let _full = world.dialer.send(streams[index], vec![index as u8; length].into(), SendFlags::default());
        }
        world.dialer.finish(streams[0]);
        world.dialer.reset(streams[1], ResetCode::CANCELLED);
        let after_hello = world.there.len();
        let mut bytes = world.there.clone();
        bytes.extend(take(&mut world.dialer, world.now));
        prop_assert!(bytes.len() > after_hello);

        let fresh = || Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
        let mut whole = fresh();
        prop_assert_eq!(whole.receive(world.now, &bytes), Ok(()));
        let mut pieces = fresh();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            prop_assert_eq!(feed(&mut pieces, piece, *cut % 700), Ok(()));
            pieces.check();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(events(&mut whole), events(&mut pieces));
        prop_assert_eq!(take(&mut whole, world.now), take(&mut pieces, world.now));
    }

    /// The same of what a dialer reads, and of a stream with a damaged byte: the same events up to it, the same reason,
    /// the same last word, wherever the pieces end.
    #[test]
    fn any_cut_of_a_damaged_byte_stream_gives_the_same_events_and_the_same_end(
        messages in vec((0..4_usize, 0..3_000_usize), 1..6),
        from_dialer in any::<bool>(),
        damage in (any::<u16>(), 0..=255_u8),
        cuts in vec(prop_oneof![1..30_usize, 1..2_000_usize], 1..100),
    ) {
        let mut world = World::ready();
        let speaker = if from_dialer { &mut world.dialer } else { &mut world.acceptor };
        let streams = Lane::ALL.map(|lane| speaker.open(StreamKind::Feed, lane).unwrap());
        for (index, length) in messages {
            let _full = speaker.send(streams[index], vec![index as u8; length].into(), SendFlags::default());
        }
        speaker.finish(streams[0]);
        speaker.reset(streams[1], ResetCode::CANCELLED);
        speaker.go_away(GoAwayCode::RESTART);
        let more = take(speaker, world.now);
        let side = if from_dialer { Side::Acceptor } else { Side::Dialer };
        let mut bytes = if from_dialer { world.there } else { world.back };
        bytes.extend(more);
        // No bit of it: nothing is damaged.
        let at = usize::from(damage.0) % bytes.len();
        bytes[at] ^= damage.1;

        let fresh = || {
            let mut listener = Connection::new(side, config(side), Duration::ZERO).unwrap();
            take(&mut listener, Duration::ZERO);
            listener
        };
        let mut whole = fresh();
        let end = whole.receive(world.now, &bytes);
        prop_assert_eq!(end.is_err(), damage.1 != 0, "damage at {} of {}", at, bytes.len());
        let mut pieces = fresh();
        let (mut rest, mut end_in_pieces) = (&bytes[..], Ok(()));
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            end_in_pieces = feed(&mut pieces, piece, *cut % 700);
            pieces.check();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(end, end_in_pieces);
        prop_assert_eq!(events(&mut whole), events(&mut pieces));
        prop_assert_eq!(take(&mut whole, world.now), take(&mut pieces, world.now));
        // Bytes of messages that are begun and not whole are as many, too: the books agree.
        prop_assert_eq!(whole.stats(), pieces.stats());
    }

    /// Who asks for a little at a time gets the same bytes as who asks for all: pieces on the wire are the driver's
    /// business, and no order of frames depends on them.
    #[test]
    fn how_much_is_asked_for_at_a_time_changes_no_byte(
        messages in vec((0..6_usize, prop_oneof![0..100_usize, 0..=12_288_usize]), 1..30),
        portions in vec(prop_oneof![1..50_usize, 1..20_000_usize], 1..20),
    ) {
        let speak = |portions: &[usize]| {
            let mut world = World::ready();
            let streams: Vec<_> = (0..6)
                .map(|index| world.dialer.open(StreamKind::Feed, Lane::ALL[index % 4]).unwrap())
                .collect();
            for (index, length) in &messages {
                let _full = world.dialer.send(streams[*index], vec![*index as u8; *length].into(), SendFlags::default());
            }
            streams[..3].iter().for_each(|stream| world.dialer.finish(*stream));
            let mut said = Vec::new();
            for portion in portions.iter().cycle() {
                let Some(slices) = world.dialer.poll_transmit(Duration::ZERO, *portion) else {
                    break;
                };
                said.extend(slices.concat());
                world.dialer.check();
            }
            said
        };
        prop_assert_eq!(speak(&portions), speak(&[usize::MAX]));
    }

    /// Random bytes, from the first one on: no panic, no answer, nothing kept.
    #[test]
    fn random_bytes_never_panic_and_get_no_answer(bytes in vec(any::<u8>(), 24..500)) {
        let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
        prop_assert!(acceptor.receive(Duration::ZERO, &bytes).is_err());
        prop_assert!(take(&mut acceptor, Duration::ZERO).is_empty());
    }

    /// Random contents under good checksums: no panic, and no more kept than was granted.
    #[test]
    fn random_frames_with_good_checksums_never_panic_and_stay_within_what_was_granted(
        frames in vec((0..12_u8, 0..5_u8, prop_oneof![0..16_u16, any::<u16>()], 0..8_u32, vec(any::<u8>(), 0..40)), 1..60),
        replies in any::<bool>(),
    ) {
        let mut world = World::ready();
        let own = world.acceptor.open(StreamKind::Feed, Lane::Bulk).unwrap();
        world.acceptor.send(own, vec![0; 4_000].into(), SendFlags::default()).unwrap();
        for (number, (kind, lane, flags, stream, payload)) in frames.into_iter().enumerate() {
            // Mostly the right length, so that more than the length is tested.
            let length = match kind { 3 | 6 => 4, 5 | 7 | 8 | 9 => 8, _ => payload.len() };
            let payload: Vec<u8> = payload.iter().copied().chain(std::iter::repeat(0)).take(length).collect();
            let bytes = frame(session_seed(), number as u32 + 1, kind, lane, flags, stream, &payload);
            let end = world.acceptor.receive(Duration::ZERO, &bytes);
            if replies {
                take(&mut world.acceptor, Duration::ZERO);
            }
            world.acceptor.check();
            prop_assert!(world.acceptor.stats().unconsumed_bytes <= small_limits().connection_window);
            if end.is_err() {
                break;
            }
        }
    }

    /// Random payloads of a Hello under good checksums.
    #[test]
    fn random_hellos_never_panic(tail in vec(any::<u8>(), 0..200), cut in 0..400_usize) {
        let payload = [config(Side::Dialer).hello().encode(), tail].concat();
        let payload = &payload[..cut.min(payload.len())];
        let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
        let _any = acceptor.receive(Duration::ZERO, &frame(0, 0, 1, 0, 0, 0, payload));
        acceptor.check();
        let mut dialer = Connection::new(Side::Dialer, config(Side::Dialer), Duration::ZERO).unwrap();
        let _any = dialer.receive(Duration::ZERO, &frame(0, 0, 2, 0, 0, 0, payload));
        dialer.check();
    }

    /// Streams of a lane that are always busy get the same, whatever the sizes of their messages.
    #[test]
    fn no_stream_of_a_lane_starves(sizes in vec(200..4_000_usize, 2..8)) {
        let mut world = World::ready();
        let streams: Vec<_> = sizes.iter().map(|_| world.dialer.open(StreamKind::Feed, Lane::Request).unwrap()).collect();
        let mut sent = vec![0; streams.len()];
        let mut got = vec![0; streams.len()];
        while got.iter().sum::<usize>() < 1_000_000 {
            for (index, stream) in streams.iter().enumerate() {
                while sent[index] < got[index] + 20_000 {
                    world.dialer.send(*stream, vec![0; sizes[index]].into(), SendFlags::default()).unwrap();
                    sent[index] += sizes[index];
                }
            }
            let slices = world.dialer.poll_transmit(Duration::ZERO, 4_000).unwrap();
            world.acceptor.receive(Duration::ZERO, &slices.concat()).unwrap();
            while let Some(event) = world.acceptor.poll_event() {
                if let Event::Message { stream, charge, bytes, .. } = event {
                    got[streams.iter().position(|known| *known == stream).unwrap()] += bytes.len();
                    world.acceptor.consumed(stream, charge);
                }
            }
            let back = take(&mut world.acceptor, Duration::ZERO);
            world.dialer.receive(Duration::ZERO, &back).unwrap();
        }
        // A turn is 16 KiB with headers, overdrawn by one frame at most; headers of small messages take a tenth.
        let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
        prop_assert!(*least + 40_000 >= most / 10 * 8, "messages of {:?} bytes: {:?} bytes came", sizes, got);
    }
    /// The same where the connection's credit is what is scarce, and the consumer is behind: whose turn it is does not
    /// depend on whose messages happen to fit what has just come back.
    #[test]
    fn no_stream_of_a_lane_starves_for_credit_behind_a_slow_consumer(
        sizes in vec(prop_oneof![200..2_000_usize, 8_000..12_000_usize], 5..9),
        lag in 0..20_usize,
    ) {
        let mut world = World::ready();
        let streams: Vec<_> = sizes.iter().map(|_| world.dialer.open(StreamKind::Feed, Lane::Request).unwrap()).collect();
        let (mut sent, mut got) = (vec![0; sizes.len()], vec![0; sizes.len()]);
        let mut held = VecDeque::new();
        while got.iter().sum::<usize>() < 1_000_000 {
            for (index, stream) in streams.iter().enumerate() {
                while sent[index] < got[index] + 14_000 {
                    world.dialer.send(*stream, vec![0; sizes[index]].into(), SendFlags::default()).unwrap();
                    sent[index] += sizes[index];
                }
            }
            let there = take(&mut world.dialer, Duration::ZERO);
            world.acceptor.receive(Duration::ZERO, &there).unwrap();
            while let Some(event) = world.acceptor.poll_event() {
                if let Event::Message { stream, charge, bytes, .. } = event {
                    got[streams.iter().position(|known| *known == stream).unwrap()] += bytes.len();
                    held.push_back((stream, charge));
                }
            }
            // It keeps a few, but goes on: more may be kept than the windows allow to come.
            let keeps = if there.is_empty() { 0 } else { lag };
            for (stream, charge) in held.drain(..held.len().saturating_sub(keeps)) {
                world.acceptor.consumed(stream, charge);
            }
            let back = take(&mut world.acceptor, Duration::ZERO);
            world.dialer.receive(Duration::ZERO, &back).unwrap();
            world.dialer.check();
            world.acceptor.check();
        }
        let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
        prop_assert!(*least * 4 >= *most, "messages of {:?} bytes, {} kept: {:?} bytes came", sizes, lag, got);
    }
}
