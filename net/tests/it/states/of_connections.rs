//! The states of a connection.

use std::time::Duration;

use towline_net::hello::{HelloAck, Refusal};
use towline_net::{Features, GoAwayCode, Lane, OpenError, ProtocolRange, Role, SendError, Side, StreamKind};

use super::peer::{Frame, World, words};
use super::{Row, table};
use crate::world::{config, frame, plain, session_seed};

/// Where a row begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Greeting(Side),
    Ready(Side),
    /// This side said that it drains, and has heard that it was heard.
    DrainingHere(Side),
    DrainingThere(Side),
    Closed(Side),
}

const SIDES: [Side; 2] = [Side::Dialer, Side::Acceptor];

/// The states that the first cell names.
fn states(cell: &str) -> Vec<State> {
    use State::{Closed, DrainingHere, DrainingThere, Greeting, Ready};
    let of: Vec<fn(Side) -> State> = match cell {
        "greeting, dialer" => return vec![Greeting(Side::Dialer)],
        "greeting, acceptor" => return vec![Greeting(Side::Acceptor)],
        "greeting" => vec![Greeting],
        "ready" => vec![Ready],
        "ready, draining" => vec![Ready, DrainingHere, DrainingThere],
        "draining, by this side" => vec![DrainingHere],
        "closed" => vec![Closed],
        other => panic!("a state that no test knows: {other}"),
    };
    of.into_iter().flat_map(|state| SIDES.map(state)).collect()
}

impl State {
    const fn side(self) -> Side {
        match self {
            Self::Greeting(side)
            | Self::Ready(side)
            | Self::DrainingHere(side)
            | Self::DrainingThere(side)
            | Self::Closed(side) => side,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Greeting(_) => "greeting",
            Self::Ready(_) => "ready",
            Self::DrainingHere(_) | Self::DrainingThere(_) => "draining",
            Self::Closed(_) => "closed",
        }
    }

    /// A side in this state, which has said all that it had to. After the handshake the peer has a stream open, so that
    /// a drain does not end.
    fn begin(self) -> World {
        let side = self.side();
        if let Self::Greeting(_) = self {
            let mut world = World::new(side, config(side));
            world.said();
            return world;
        }
        let mut world = World::ready(side);
        world.tell_open(peers_stream(&world));
        match self {
            Self::DrainingHere(_) => {
                world.one.go_away(GoAwayCode::RESTART);
                let said = world.said();
                world.tell_pong(&said);
            }
            Self::DrainingThere(_) => world.tell_go_away(2),
            Self::Closed(_) => world.one.close(),
            Self::Greeting(_) | Self::Ready(_) => {}
        }
        while world.one.poll_event().is_some() {}
        assert_eq!(state_of(&mut world), self.name());
        world.said();
        world
    }
}

fn peers_stream(world: &World) -> u32 {
    World::first_stream(world.other())
}

/// As the book names it. To tell draining from ready a stream is opened: nothing can be said for it afterwards.
fn state_of(world: &mut World) -> &'static str {
    if world.one.is_closed() {
        return "closed";
    }
    match world.one.open(StreamKind::Request, Lane::Request) {
        Err(OpenError::NotReady) => "greeting",
        Err(OpenError::Draining) => "draining",
        Ok(_) => "ready",
        Err(other) => panic!("{other}"),
    }
}

/// What came of it: a world after it happened, and the number that 'its code' stands for.
type After = (World, u32);

/// A case of what a row says that happens, by the words of the row; `;` separates cases.
fn happen(case: &str, state: State) -> Vec<After> {
    let one = |change: &dyn Fn(&mut World)| {
        let mut world = state.begin();
        change(&mut world);
        vec![(world, 0)]
    };
    match case {
        "it begins" => vec![(World::new(state.side(), config(state.side())), 0)],
        "a Hello that passes all checks" | "a welcome that passes all checks" => {
            one(&|world| world.greet(&config(world.other())))
        }
        "a Hello that fails one of checks 2 to 7" | "a welcome that fails one of checks 3 to 7" => fails_a_check(state),
        "bytes that are no Hello (check 1)" | "bytes that are neither" => no_greetings(state),
        "a refusal" => one(&|world| world.tell_greeting(&HelloAck::Refusal(Refusal::new(3020)).encode())),
        "a welcome without its form" => one(&|world| {
            let mut welcome = HelloAck::Welcome { version: 1, hello: config(world.other()).hello() }.encode();
            welcome[0] ^= 1;
            world.tell_greeting(&welcome);
        }),
        "no whole Hello or HelloAck within 5 s" => [&[][..], &[0; 10]].map(|some| late(state, some)).into(),
        "the byte stream ends" => one(&|world| world.one.transport_ended()),
        "this side ends it" => one(&|world| world.one.close()),
        "a ping interval since the last answer" => one(&|world| {
            world.now += Duration::from_secs(1);
            world.one.tick(world.now);
        }),
        "Ping" => one(&|world| world.tell(super::peer::PING, 0, 0, 0, b"the same")),
        "a message was consumed, and an eighth of a window is due" => one(&|world| {
            let stream = peers_stream(world);
            world.tell_message(stream, &[7; 2500]);
            assert_eq!(words(&world.said()), "nothing", "before it is consumed");
            assert_eq!(crate::world::consume(&mut world.one), [vec![7; 2500]]);
        }),
        "this side drains" => [1, 2, 3, 15].map(|code| (drains(state, code), code)).into(),
        "GoAway 1 to 15" => [1, 2, 3, 15].map(|code| (hears_go_away(state, &[code]), code)).into(),
        "a second one has no effect" => vec![(hears_go_away(state, &[2, 1]), 0)],
        "an Open that the peer sent before it read the GoAway" => one(&|world| {
            let stream = peers_stream(world);
            world.tell_open(stream + 2);
            assert_eq!(world.one.poll_event(), None, "it was not looked at");
        }),
        "no stream is left, and the Ping behind the GoAway was answered" => {
            let mut world = World::ready(state.side());
            world.one.go_away(GoAwayCode::RESTART);
            let said = world.said();
            assert_eq!(state_of(&mut world), "draining", "until it is known that the peer has heard it");
            world.tell_pong(&said);
            vec![(world, 0)]
        }
        "a frame that breaks a rule" => vec![breaks_a_rule(state, 10, 3004), breaks_a_rule(state, 1, 3006)],
        "no byte for 3 s" => {
            let mut world = state.begin();
            world.now += Duration::from_secs(3);
            world.one.tick(world.now);
            vec![(world, 3012)]
        }
        "nothing granted or read for 30 s" => vec![(stalls(state), 3025)],
        "the peer's certificate ends" => {
            let mut world = state.begin();
            world.one.certificate_ended();
            vec![(world, 3143)]
        }
        "GoAway with any other code" => {
            [0, 16, 17, 3005, 70_000].map(|code| (hears_go_away(state, &[code]), code)).into()
        }
        "any byte" => one(&|world| world.tell(super::peer::PING, 0, 0, 0, b"anything")),
        other => panic!("no test drives this: {other}"),
    }
}

fn fails_a_check(state: State) -> Vec<After> {
    let mut ours = config(state.side());
    (ours.expect_node, ours.expect_role) = (Some(config(state.begin().other()).identity.node), Some(Role::Node));
    ours.features = Features { needed: 1, offered: 1 };
    let mut theirs = config(state.begin().other());
    theirs.features = Features { needed: 0, offered: 1 };
    let greeted_by = |hello: &dyn Fn(&mut towline_net::hello::Hello)| {
        let mut world = World::new(state.side(), ours);
        world.said();
        let mut said = theirs.hello();
        hello(&mut said);
        match state.side() {
            Side::Acceptor => world.tell_greeting(&said.encode()),
            Side::Dialer => world.tell_greeting(&HelloAck::Welcome { version: 1, hello: said }.encode()),
        }
        world
    };
    assert!(greeted_by(&|_| ()).one.is_ready(), "with nothing wrong");
    let mut all = vec![
        (greeted_by(&|hello| hello.identity.cluster = [0; 16]), 3018),
        (greeted_by(&|hello| hello.identity.cluster = [9; 16]), 3013),
        (greeted_by(&|hello| hello.identity.role = Role::Client), 3026),
        (greeted_by(&|hello| hello.identity.node += 1), 3014),
        (greeted_by(&|hello| hello.protocol = ProtocolRange::new(2, 3)), 3015),
        (greeted_by(&|hello| hello.features.offered = 0), 3016),
        (greeted_by(&|hello| hello.limits.frame_bytes_max = 1), 3017),
    ];
    if state.side() == Side::Acceptor {
        let mut world = World::new(Side::Acceptor, ours);
        world.tell_greeting(b"TOWLINE?");
        all.push((world, 3018));
    }
    all
}

/// The peer's first bytes, each wrong in one thing of the frame.
fn no_greetings(state: State) -> Vec<After> {
    let kind = if state.side() == Side::Acceptor { 1 } else { 2 };
    let payload = match state.side() {
        Side::Acceptor => config(Side::Dialer).hello().encode(),
        Side::Dialer => HelloAck::Welcome { version: 1, hello: config(Side::Acceptor).hello() }.encode(),
    };
    let good = frame(0, 0, kind, 0, 0, 0, &payload);
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        flipped(0),
        flipped(good.len() - 1),
        frame(session_seed(), 0, kind, 0, 0, 0, &payload),
        frame(0, 1, kind, 0, 0, 0, &payload),
        frame(0, 0, 3 - kind, 0, 0, 0, &payload),
        frame(0, 0, 4, 0, 0, 1, &payload),
        frame(0, 0, 7, 0, 0, 0, &[0; 8]),
        frame(0, 0, 200, 0, 0, 0, &payload),
        frame(0, 0, kind, 1, 0, 0, &payload),
        frame(0, 0, kind, 0, 1, 0, &payload),
        frame(0, 0, kind, 0, 0, 1, &payload),
        frame(0, 0, kind, 0, 0, 0, &[0; 4097]),
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec(),
        [&[0x16, 3, 1, 2, 0][..], &[1; 512]].concat(),
    ];
    let told = |bytes: Vec<u8>| {
        let mut world = state.begin();
        world.tell_bytes(&bytes);
        (world, 0)
    };
    cases.map(told).into()
}

fn late(state: State, some: &[u8]) -> After {
    let mut world = state.begin();
    world.tell_bytes(some);
    world.now = Duration::from_millis(4999);
    world.one.tick(world.now);
    assert_eq!(state_of(&mut world), "greeting", "a moment before");
    world.now = Duration::from_secs(5);
    world.one.tick(world.now);
    (world, 0)
}

fn drains(state: State, code: u32) -> World {
    let mut world = state.begin();
    world.one.go_away(GoAwayCode(code));
    world
}

fn hears_go_away(state: State, codes: &[u32]) -> World {
    let mut world = state.begin();
    for code in codes {
        world.tell_go_away(*code);
    }
    let told = std::iter::from_fn(|| world.one.poll_event());
    let told = told.filter(|event| matches!(event, towline_net::Event::GoAway { .. })).count();
    assert!(told <= 1, "a second one is no event");
    world
}

fn breaks_a_rule(state: State, kind: u8, code: u32) -> After {
    let mut world = state.begin();
    world.tell(kind, 0, 0, 0, &[]);
    (world, code)
}

/// A message waits for credit that the peer, which says Ping all the while, does not give.
fn stalls(state: State) -> World {
    let mut world = state.begin();
    let stream = towline_net::StreamId::new(peers_stream(&world));
    loop {
        match world.one.send(stream, vec![7; 12 << 10].into(), plain()) {
            Ok(()) => {}
            Err(SendError::Full) => break,
            Err(other) => panic!("{other}"),
        }
    }
    world.said();
    for second in 0..=30 {
        assert!(!world.one.is_closed(), "after {second} s");
        world.now += Duration::from_secs(if second == 0 { 0 } else { 1 });
        world.tell(super::peer::PING, 0, 0, 0, b"are you?");
        if second < 30 {
            let said = world.said();
            if said.iter().any(|frame| frame.words() == "Ping") {
                world.tell_pong(&said);
            }
        }
        world.one.tick(world.now);
    }
    world
}

/// What the book says, with this number for 'its code'.
fn expected(said: &str, code: u32) -> String {
    let number = code.to_string();
    match said {
        "Pong with the same bytes" => format!("Pong {:?}", b"the same"),
        "GoAway with its code" | "GoAway with the code" => format!("GoAway {number}"),
        "GoAway 1 to 15, then Ping" => format!("GoAway {number}, then Ping"),
        _ => said.replace("its code", &number),
    }
}

fn drive(row: &Row, case: &str, state: State) {
    let after = happen(case, state);
    assert!(!after.is_empty());
    for (index, (mut world, code)) in after.into_iter().enumerate() {
        let said: Vec<Frame> = world.said();
        let place = format!("{state:?}, {case} ({index}, {code}): the book says {row:?}");
        assert_eq!(words(&said), expected(row.said, code), "what is said: {place}");
        let then = match row.then {
            "as before" => state.name(),
            "draining: this side opens no more" => "draining",
            then => then,
        };
        assert_eq!(state_of(&mut world), then, "what follows: {place}");
        if world.one.is_closed() {
            assert_eq!(words(&world.said()), "nothing", "after the end: {place}");
        }
    }
}

#[test]
fn each_row_of_the_table_of_connections_is_what_a_connection_does() {
    let rows = table("### Of a connection", "state");
    let mut driven = 0;
    for row in &rows {
        for state in states(row.state) {
            for case in row.happens.split("; ") {
                drive(row, case, state);
                driven += 1;
            }
        }
    }
    assert_eq!(driven, CASES, "the book has lost a row or a case, or has a new one");
}

/// How many cases the table has, in each state that a row names and on both sides.
const CASES: usize = 95;

/// What is not in a table ends the connection: each kind of frame, in each state, where the table has no row for it.
#[test]
fn a_frame_that_no_row_of_the_table_of_connections_allows_ends_the_connection() {
    // Those that a stream's table has, and may come here: Open, Data, Credit, Reset.
    let of_streams = [3, 4, 5, 6];
    for state in states("greeting").into_iter().chain(states("ready, draining")) {
        for kind in (0..=255).filter(|kind| !of_streams.contains(kind)) {
            let mut world = state.begin();
            if let State::Greeting(side) = state {
                if kind == if side == Side::Acceptor { 1 } else { 2 } {
                    continue;
                }
                world.tell_bytes(&frame(0, 0, kind, 0, 0, 0, &[]));
                assert_eq!((words(&world.said()).as_str(), state_of(&mut world)), ("nothing", "closed"), "{kind}");
                continue;
            }
            let length = if (7..=9).contains(&kind) { 8 } else { 0 };
            world.tell(kind, 0, 0, 0, &[0; 8][..length]);
            let said = words(&world.said());
            let expected = match kind {
                7 => (format!("Pong {:?}", [0; 8]), state.name()),
                8 | 128.. => ("nothing".to_owned(), state.name()),
                9 => ("nothing".to_owned(), "closed"),
                1 | 2 => ("GoAway 3006".to_owned(), "closed"),
                _ => ("GoAway 3004".to_owned(), "closed"),
            };
            assert_eq!((said, state_of(&mut world)), expected, "kind {kind} in {state:?}");
        }
    }
}

/// The defaults that the table names.
#[test]
fn the_times_of_the_table_are_the_defaults() {
    let config = config(Side::Dialer);
    let text = table("### Of a connection", "state").iter().map(|row| row.happens).collect::<Vec<_>>().join("; ");
    for (time, words) in [
        (config.hello_timeout, "no whole Hello or HelloAck within 5 s"),
        (config.idle_timeout, "no byte for 3 s"),
        (config.stall_timeout, "nothing granted or read for 30 s"),
    ] {
        assert!(words.ends_with(&format!(" {} s", time.as_secs())) && text.contains(words), "{words}");
    }
}
