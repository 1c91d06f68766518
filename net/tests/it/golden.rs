//! The bytes of version 1, frozen: each is encoded and compared, read back and compared. `TOWLINE_BLESS=1` writes
//! them anew, but not in CI: a changed file means a changed format, and that a version must rise.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use towline_net::frame::{FrameFlags, FrameHeader, FrameKind};
use towline_net::hello::{Hello, HelloAck, Refusal};
use towline_net::{
    Connection, ConnectionConfig, Event, Features, GoAwayCode, Identity, Lane, Limits, ProtocolRange, ResetCode, Role,
    SendFlags, Side, StreamKind,
};

fn check(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/golden").join(name);
    if std::env::var_os("TOWLINE_BLESS").is_some() {
        assert!(std::env::var_os("CI").is_none(), "golden files are not written in CI");
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(bytes, golden, "{name}: the bytes on the wire have changed");
    golden
}

/// Everything spelled out: a changed default must not change a golden file.
fn config(side: Side) -> ConnectionConfig {
    let (node, nonce) = match side {
        Side::Dialer => (0x0102_0304_0506_0708, *b"nonce of dialer."),
        Side::Acceptor => (2, *b"nonce of accept."),
    };
    let identity = Identity {
        cluster: *b"golden cluster..",
        node,
        directory: *b"golden directory",
        incarnation: 0x1112_1314_1516_1718,
        role: if side == Side::Dialer { Role::Client } else { Role::Node },
    };
    let mut config = ConnectionConfig::new(identity, nonce);
    config.protocol = ProtocolRange::new(1, 1);
    config.features = Features { needed: 0, offered: 0b101 };
    config.limits = Limits {
        frame_bytes_max: 1024,
        stream_window: 0x1_0000,
        connection_window: 0x4_0000,
        message_bytes_max: 0x8000,
        streams_max: 8,
        send_buffer_max: 0x1_0000,
    };
    config
}

fn seed() -> u32 {
    towline_net::frame::session_seed(&config(Side::Dialer).nonce, &config(Side::Acceptor).nonce)
}

#[test]
fn hello_is_frozen() {
    let hello = config(Side::Dialer).hello();
    let golden = check("hello.bin", &hello.encode());
    assert_eq!(Hello::decode(&golden), Ok(hello));
}

#[test]
fn hello_ack_is_frozen() {
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
    let hello = config(Side::Dialer).hello().encode();
    let header = FrameHeader::for_payload(FrameKind::Hello.to_wire(), &hello, 0).encode(0);
    acceptor.receive(Duration::ZERO, &[&header[..], &hello].concat()).unwrap();
    let said = crate::world::take(&mut acceptor, Duration::ZERO);
    let golden = check("hello_ack.bin", &said[24..]);
    let HelloAck::Welcome { version, hello } = HelloAck::decode(&golden).unwrap() else { panic!("a welcome") };
    assert_eq!((version, hello), (1, config(Side::Acceptor).hello()));
}

#[test]
fn refusals_are_frozen() {
    let refusal = Refusal::of_versions(3015, ProtocolRange::new(1, 1), ProtocolRange::new(2, 3));
    let golden = check("refusal_version.bin", &HelloAck::Refusal(refusal).encode());
    assert_eq!(HelloAck::decode(&golden), Ok(HelloAck::Refusal(refusal)));
    let refusal = Refusal::new(3013);
    let golden = check("refusal_cluster.bin", &HelloAck::Refusal(refusal).encode());
    assert_eq!(HelloAck::decode(&golden), Ok(HelloAck::Refusal(refusal)));
}

#[test]
fn each_kind_of_frame_is_frozen() {
    let frame = |kind: FrameKind, lane, flags, stream, payload: &'static [u8]| {
        let mut header = FrameHeader::for_payload(kind.to_wire(), payload, 0x0a0b_0c0d);
        (header.lane, header.flags, header.stream) = (lane, flags, stream);
        if flags.contains(FrameFlags::CHECKSUMMED) {
            header.payload_crc = 0;
        }
        (header, payload)
    };
    let none = FrameFlags::NONE;
    let frames = [
        ("frame_open.bin", frame(FrameKind::Open, 1, none, 1, &[2, 0, 0, 0])),
        ("frame_data.bin", frame(FrameKind::Data, 1, none, 1, b"a whole message")),
        ("frame_data_more.bin", frame(FrameKind::Data, 3, FrameFlags::MORE, 4, b"a part")),
        ("frame_data_checksummed.bin", frame(FrameKind::Data, 1, FrameFlags::CHECKSUMMED, 1, b"a batch")),
        ("frame_data_end.bin", frame(FrameKind::Data, 2, FrameFlags::END, 3, b"")),
        ("frame_credit.bin", frame(FrameKind::Credit, 0, none, 1, &[0, 0, 1, 0, 0, 0, 0, 0])),
        ("frame_credit_streams.bin", frame(FrameKind::Credit, 0, FrameFlags::STREAMS, 0, &[9, 0, 0, 0, 0, 0, 0, 0])),
        ("frame_reset.bin", frame(FrameKind::Reset, 0, none, 1, &[1, 0, 0, 0])),
        ("frame_ping.bin", frame(FrameKind::Ping, 0, none, 0, &[1, 2, 3, 4, 5, 6, 7, 8])),
        ("frame_pong.bin", frame(FrameKind::Pong, 0, none, 0, &[1, 2, 3, 4, 5, 6, 7, 8])),
        ("frame_go_away.bin", frame(FrameKind::GoAway, 0, none, 0, &[2, 0, 0, 0, 7, 0, 0, 0])),
    ];
    for (name, (header, payload)) in frames {
        let golden = check(name, &[&header.encode(seed())[..], payload].concat());
        let (head, body) = golden.split_first_chunk::<24>().unwrap();
        assert_eq!(FrameHeader::decode(head, seed()), Ok(header), "{name}");
        assert_eq!(body, payload, "{name}");
    }
}

/// A whole conversation: what each side said.
fn converse() -> [Vec<u8>; 2] {
    let ms = Duration::from_millis;
    let mut dialer = Connection::new(Side::Dialer, config(Side::Dialer), ms(0)).unwrap();
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), ms(0)).unwrap();
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let mut exchange = |dialer: &mut Connection, acceptor: &mut Connection, now| {
        for _ in 0..4 {
            let said = crate::world::take(dialer, now);
            let _ended = acceptor.receive(now, &said);
            there.extend(said);
            let said = crate::world::take(acceptor, now);
            let _ended = dialer.receive(now, &said);
            back.extend(said);
        }
    };
    exchange(&mut dialer, &mut acceptor, ms(0));
    let call = dialer.open(StreamKind::Request, Lane::Request).unwrap();
    let appends = dialer.open(StreamKind::Replication, Lane::Replication).unwrap();
    dialer.send(call, Bytes::from_static(b"are you well?"), SendFlags::default()).unwrap();
    dialer.send(appends, (0..2500_u32).map(|i| i as u8).collect(), SendFlags { checksummed: true }).unwrap();
    dialer.finish(call);
    exchange(&mut dialer, &mut acceptor, ms(1));
    acceptor.send(call, Bytes::from_static(b"never better"), SendFlags::default()).unwrap();
    acceptor.finish(call);
    while let Some(event) = acceptor.poll_event() {
        if let Event::Message { stream, charge, .. } = event {
            acceptor.consumed(stream, charge);
        }
    }
    for _ in 0..3 {
        dialer.send(appends, vec![7; 3000].into(), SendFlags::default()).unwrap();
        exchange(&mut dialer, &mut acceptor, ms(2));
        while let Some(event) = acceptor.poll_event() {
            if let Event::Message { stream, charge, .. } = event {
                acceptor.consumed(stream, charge);
            }
        }
    }
    dialer.tick(ms(1000));
    dialer.reset(appends, ResetCode::APPLICATION);
    acceptor.go_away(GoAwayCode::RESTART);
    exchange(&mut dialer, &mut acceptor, ms(1001));
    crate::world::events(&mut acceptor);
    crate::world::events(&mut dialer);
    exchange(&mut dialer, &mut acceptor, ms(1002));
    assert!(dialer.is_closed() && acceptor.is_closed());

    [there, back]
}

/// Both directions, byte for byte: what the code says, and what it understands.
#[test]
fn a_transcript_of_a_session_is_frozen() {
    let [there, back] = converse();
    assert_is_understood(&check("session_dialer.bin", &there), &check("session_acceptor.bin", &back));
}

/// As it was before a drain waited for a Pong: no longer said, and understood for ever.
#[test]
fn an_older_transcript_of_a_session_is_understood() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let read = |name| std::fs::read(root.join("tests/golden").join(name)).unwrap();
    assert_is_understood(&read("transcript_dialer.bin"), &read("transcript_acceptor.bin"));
}

fn assert_is_understood(there: &[u8], back: &[u8]) {
    // Read back by a fresh acceptor: the same messages.
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
    acceptor.receive(Duration::ZERO, there).unwrap();
    let messages: Vec<usize> = crate::world::events(&mut acceptor)
        .iter()
        .filter_map(|event| if let Event::Message { bytes, .. } = event { Some(bytes.len()) } else { None })
        .collect();
    assert_eq!(messages, [2500, 13, 3000, 3000, 3000]);
    let kinds: Vec<u8> = [(there, 0), (back, 0)]
        .into_iter()
        .flat_map(|(bytes, first)| crate::world::frames(bytes, move |number| if number == 0 { first } else { seed() }))
        .map(|(header, _)| header.kind)
        .collect();
    for kind in 1..=9 {
        assert!(kinds.contains(&kind), "the transcript holds a frame of kind {kind}");
    }
}

/// The worked example of the book shows these bytes.
#[test]
fn the_specification_shows_the_bytes_that_the_code_makes() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let golden = |name| std::fs::read(root.join("tests/golden").join(name)).unwrap();
    let hello = config(Side::Dialer).hello().encode();
    let header = FrameHeader::for_payload(FrameKind::Hello.to_wire(), &hello, 0).encode(0);
    let book = std::fs::read_to_string(root.join("../docs/src/protocol.md")).unwrap();
    for bytes in [
        [&header[..], &hello].concat(),
        golden("refusal_version.bin"),
        golden("frame_data.bin"),
        golden("frame_credit.bin"),
        golden("frame_data_end.bin"),
    ] {
        let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let dump = bytes.chunks(16).map(line).collect::<Vec<_>>().join("\n");
        assert!(book.contains(&format!("```text\n{dump}\n```")), "docs/src/protocol.md does not show\n{dump}");
    }
    assert_eq!(seed(), 0xca40_6c28);
}
