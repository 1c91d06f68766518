//! The numbers of errors, and what the book says of them.

use std::collections::BTreeMap;

use towline_net::{
    ConfigError, ConnectionError, FaultClass, GoAwayCode, OpenError, ProtocolRange, SendError, Side, StreamId,
};

use crate::world::{World, config};

const BOOK: &str = include_str!("../../../docs/src/protocol.md");

/// Each code of the book's tables with the cells behind it.
fn book() -> BTreeMap<u16, Vec<&'static str>> {
    let rows = BOOK.lines().filter_map(|line| line.strip_prefix("| "));
    rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
        .filter_map(|cells| Some((cells[0].trim_start_matches("TW-").parse().ok()?, cells[1..].to_vec())))
        .filter(|(code, _)| *code >= 3000)
        .collect()
}

fn word(class: FaultClass) -> &'static str {
    match class {
        FaultClass::Retry => "retry",
        FaultClass::Reroute => "re-route",
        FaultClass::FixRequest => "fix the request",
        FaultClass::Operator => "operator",
        FaultClass::Damage => "damage",
        newer => panic!("not in the book: {newer:?}"),
    }
}

fn of_connections() -> Vec<ConnectionError> {
    use ConnectionError as E;
    let (what, stream, range) = ("", StreamId::new(1), ProtocolRange::new(1, 1));
    vec![
        E::HeaderChecksum { sequence: 0 },
        E::PayloadChecksum { sequence: 0 },
        E::FrameTooLong { length: 2, max: 1 },
        E::UnknownKind { kind: 10 },
        E::Sequence { expected: 1, found: 2 },
        E::Malformed { kind: 3, what },
        E::StreamState { stream, what },
        E::FlowViolation { stream, used: 2, granted: 1 },
        E::MessageTooLong { stream, max: 1 },
        E::StreamsExceeded { granted: 1 },
        E::HelloTimeout,
        E::IdleTimeout,
        E::WrongCluster,
        E::WrongNode { expected: 1, found: 2 },
        E::WrongRole { expected: towline_net::Role::Node, found: towline_net::Role::Client },
        E::VersionMismatch { ours: range, theirs: range },
        E::FeatureMissing { missing: 1 },
        E::LimitsUnusable { rule: what },
        E::HelloMalformed { what },
        E::Busy,
        E::TransportEnded,
        E::ClosedHere,
        E::Drained,
        E::StallTimeout,
        E::SpeaksTls,
        E::CertificateEnded,
        E::MemoryExceeded,
    ]
}

/// A peer that found a wrong cluster, a wrong version or damage and closed with that code was dialled again for ever:
/// whatever it said, the class was *retry*.
#[test]
fn what_a_peer_says_is_of_the_class_of_what_it_found_in_a_refusal_and_at_the_end() {
    for reason in of_connections() {
        let (code, class) = (reason.code(), reason.class());
        let closed = ConnectionError::ClosedByPeer { code: GoAwayCode(code.into()) };
        assert_eq!(closed.class(), class, "closed with {code}");
        let refused = ConnectionError::Refused { code, ours: ProtocolRange::new(1, 1), theirs: None };
        assert_eq!(refused.class(), class, "refused with {code}");
    }
    let closed = |code| ConnectionError::ClosedByPeer { code }.class();
    assert_eq!(closed(GoAwayCode::CLOSED), FaultClass::Retry);
    assert_eq!(closed(GoAwayCode(99)), FaultClass::Retry, "a wish of a later version");
    assert_eq!(closed(GoAwayCode(3999)), FaultClass::Operator, "an error of a later version");
    assert_eq!(closed(GoAwayCode((1 << 16) + 3001)), FaultClass::Operator, "no code is cut to size");
}

#[test]
fn a_dialer_that_reaches_another_cluster_tells_the_acceptor_to_look_up_the_address_again() {
    let mut acceptor = config(Side::Acceptor);
    (acceptor.identity.cluster, acceptor.expect_cluster) = ([9; 16], None);
    let mut world = World::new(config(Side::Dialer), acceptor);
    world.settle();
    let class = |side: &towline_net::Connection| side.closed_reason().map(ConnectionError::class);
    assert_eq!(class(&world.dialer), Some(FaultClass::Reroute));
    assert_eq!(class(&world.acceptor), Some(FaultClass::Reroute), "it is the peer that is in the wrong place");
}

#[test]
fn the_book_has_each_code_with_the_class_that_the_error_has() {
    let book = book();
    let says =
        |code: u16| *book.get(&code).and_then(|cells| cells.iter().find(|cell| KNOWN.contains(cell))).unwrap_or(&"");
    for reason in of_connections() {
        assert_eq!(says(reason.code()), word(reason.class()), "{reason:?}");
    }
    let range = ProtocolRange::new(1, 1);
    let config = [
        ConfigError::Limits { rule: "" },
        ConfigError::Protocol { range, cap: None },
        ConfigError::Features { missing: 1 },
        ConfigError::Times { rule: "" },
        ConfigError::Identity { rule: "" },
    ];
    let send = [
        SendError::Full,
        SendError::TooLong { length: 2, max: 1 },
        SendError::StreamClosed,
        SendError::ConnectionClosed,
    ];
    let open = [
        OpenError::NotReady,
        OpenError::StreamsExhausted,
        OpenError::NumbersUsedUp,
        OpenError::Draining,
        OpenError::ConnectionClosed,
    ];
    let calls: Vec<(u16, FaultClass)> = config
        .map(|error| (error.code(), error.class()))
        .into_iter()
        .chain(send.map(|error| (error.code(), error.class())))
        .chain(open.map(|error| (error.code(), error.class())))
        .collect();
    for (code, class) in &calls {
        assert_eq!(says(*code), word(*class), "TW-{code}");
    }
    let mut numbers: Vec<u16> = calls.iter().map(|(code, _)| *code).collect();
    numbers.extend(of_connections().iter().map(ConnectionError::code));
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "each number stands for one thing");
}

const KNOWN: [&str; 5] = ["retry", "re-route", "fix the request", "operator", "damage"];
