//! One node by itself: what was acknowledged is there, and nothing else's directory is touched.

use bytes::Bytes;
use std::future::Future as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use towline::control::ConfigMaster;
use towline::model::request::Direction;
use towline::model::{
    ClusterId, Epoch, Expect, Filter, LogPosition, NodeId, Operation, Outcome, Read, Record, Rejection, Since, Write,
};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions, OpenError, SHARD, WriteRefused};
use towline::pipeline::SubmitPolicy;
use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Wal};

fn open(directory: &Path) -> Node {
    Node::open(NodeOptions::alone(directory)).unwrap()
}

fn append(stream: &'static str, expect: Expect, value: &str) -> Record {
    Record::of(vec![Operation::Append {
        stream: Bytes::from_static(stream.as_bytes()),
        expect,
        metadata: Bytes::new(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }])
}

fn values(node: &Node, stream: &str) -> Vec<String> {
    let bounds = (usize::MAX, usize::MAX);
    let read = node.default_namespace().read_stream(stream, 1, Direction::Forward, bounds, Read::Linearizable).unwrap();
    read.events.into_iter().map(|event| String::from_utf8(event.value).unwrap()).collect()
}

#[test]
fn i1_what_was_acknowledged_is_there_after_a_clean_close_and_a_reopen() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    for number in 0..50 {
        let written =
            node.default_namespace().write(append("s", Expect::Any, &number.to_string())).unwrap().wait().unwrap();
        assert_eq!(written.outcome, Outcome::Applied { version: number + 1 });
    }
    let (_, digest) = node.digest().unwrap();
    node.close().unwrap();
    let node = open(directory.path());
    assert_eq!(values(&node, "s"), (0..50).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(node.digest().unwrap().1, digest);
    let written = node.default_namespace().write(append("s", Expect::Version(50), "50")).unwrap().wait().unwrap();
    assert_eq!(written.outcome, Outcome::Applied { version: 51 });
    node.close().unwrap();
}

#[test]
fn an_expected_version_is_held_to_and_the_reason_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    node.default_namespace().write(append("s", Expect::Absent, "a")).unwrap().wait().unwrap();
    let written = node.default_namespace().write(append("s", Expect::Absent, "b")).unwrap().wait().unwrap();
    assert_eq!(written.outcome, Outcome::Rejected(Rejection::StreamVersion { index: 0, actual: 1 }));
    assert_eq!(values(&node, "s"), ["a"]);
    node.close().unwrap();
}

#[test]
fn i6_each_write_hears_its_own_outcome_also_beside_batches_of_which_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let receipts: Vec<_> =
        (0..20_000).map(|_| node.default_namespace().write(append("t", Expect::Any, "old")).unwrap()).collect();
    for receipt in receipts {
        receipt.wait().unwrap();
    }
    node.close().unwrap();
    // A crash loses what the state had not flushed: all of it, say. While the log is replayed, the node leads already,
    // and the start of its epoch is applied together with the first writes of its own.
    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    {
        let node = open(directory.path());
        let writes = (0..200).map(|number| {
            let expect = if number % 3 == 0 { Expect::Version(7) } else { Expect::Any };
            node.default_namespace().write(append("s", expect, "a")).unwrap()
        });
        let receipts: Vec<_> = writes.collect();
        let mut version = 0;
        for (number, receipt) in receipts.into_iter().enumerate() {
            let told = receipt.wait().unwrap().outcome;
            if number % 3 == 0 && version != 7 {
                let rejection = Rejection::StreamVersion { index: 0, actual: version };
                assert_eq!(told, Outcome::Rejected(rejection), "write {number}");
            } else {
                version += 1;
                assert_eq!(told, Outcome::Applied { version }, "write {number}");
            }
        }
        node.close().unwrap();
    }
}

#[test]
fn many_producers_are_each_answered_once_and_everything_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    std::thread::scope(|scope| {
        for producer in 0..8 {
            let node = &node;
            scope.spawn(move || {
                for number in 0..100 {
                    let key = Bytes::from(format!("{producer}-{number}"));
                    let put = Operation::Put { key: key.clone(), value: key };
                    node.default_namespace().write(Record::of(vec![put])).unwrap().wait().unwrap();
                }
            });
        }
    });
    for producer in 0..8 {
        for number in 0..100 {
            let key = format!("{producer}-{number}");
            assert_eq!(node.default_namespace().get(&key, Read::Linearizable).unwrap().unwrap().value, key);
        }
    }
    node.close().unwrap();
}

#[test]
fn a_directory_in_use_is_refused_with_who_holds_it() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let refused = Node::open(NodeOptions::alone(directory.path()));
    let error = refused.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Log(_)), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    node.close().unwrap();
    open(directory.path()).close().unwrap();
}

#[test]
fn a_directory_of_another_node_or_cluster_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).close().unwrap();
    let list = || {
        let mut names: Vec<_> =
            std::fs::read_dir(directory.path().join("wal")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = list();
    let mut options = NodeOptions::alone(directory.path());
    options.cluster = Some(ClusterId::new([9; 16]));
    assert!(matches!(Node::open(options).map(drop), Err(OpenError::Identity(_))));
    let mut options = NodeOptions::alone(directory.path());
    (options.node, options.leader, options.voters) = (NodeId::new(7), NodeId::new(7), vec![NodeId::new(7)]);
    assert!(matches!(Node::open(options).map(drop), Err(OpenError::Identity(_))));
    assert_eq!(list(), before);
}

#[test]
fn a_node_that_is_dropped_in_the_middle_answers_everyone() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let receipts: Vec<_> = (0..200)
        .map(|number| node.default_namespace().write(append("s", Expect::Any, &number.to_string())).unwrap())
        .collect();
    drop(node);
    let mut applied = 0;
    for receipt in receipts {
        match receipt.wait_for(Duration::from_secs(10)) {
            Ok(Some(_)) => applied += 1,
            Ok(None) => panic!("a receipt was left without an answer"),
            Err(_) => {}
        }
    }
    let node = open(directory.path());
    assert!(values(&node, "s").len() >= applied, "I1: {applied} were acknowledged");
    node.close().unwrap();
}

#[test]
fn a_page_of_a_stream_never_holds_events_newer_than_the_version_that_it_tells() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for _ in 0..400 {
                node.default_namespace().write(append("s", Expect::Any, "x")).unwrap().wait().unwrap();
            }
        });
        while !writing.is_finished() {
            let page = node
                .default_namespace()
                .read_stream("s", 0, Direction::Backward, (1, usize::MAX), Read::Eventual)
                .unwrap();
            assert_eq!(page.events.first().map_or(0, |event| event.version), page.head);
        }
    });
    node.close().unwrap();
}

/// More than the log's queue and the bound on what is not applied hold at one time, also of several shards together.
#[test]
fn large_writes_of_several_shards_wait_for_a_slow_disk_and_stop_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::alone(directory.path());
    options.queue_bytes = 512 << 20;
    options.log.queue_bytes_max = 1;
    options.sequencers = 2;
    let node = Node::open(options).unwrap();
    let spaces = ["a", "b", "c"].map(|name| node.create_namespace(name, &NamespaceOptions::default()).unwrap());
    // Small enough to be sealed apart, and not alike, so that they do not shrink.
    let value = |number: u8| {
        Bytes::from_iter((0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0] ^ number))
    };
    let put = |number: u8| Record::of(vec![Operation::Put { key: vec![number].into(), value: value(number) }]);
    let mut receipts = Vec::new();
    for number in 0..30 {
        let put = put(number);
        receipts.extend(spaces.iter().map(|space| space.write(&put).unwrap()));
    }
    for receipt in receipts {
        assert!(receipt.wait_for(Duration::from_secs(60)).unwrap().is_some(), "an answer in time");
    }
    assert_eq!(node.failure(), None);
    for space in &spaces {
        assert_eq!(space.get([29], Read::Linearizable).unwrap().unwrap().value, value(29));
    }
    node.close().unwrap();
}

#[test]
fn a_state_that_may_keep_little_in_memory_goes_to_files_by_itself() {
    let value = Bytes::from(vec![7_u8; 64 << 10]);
    let files_after_writing = |unflushed_bytes: usize| {
        let directory = tempfile::tempdir().unwrap();
        let mut options = NodeOptions::alone(directory.path());
        options.state.unflushed_bytes = unflushed_bytes;
        let node = Node::open(options).unwrap();
        for number in 0..64_u8 {
            node.default_namespace().put([number].to_vec(), value.clone()).unwrap().wait().unwrap();
        }
        let files = node.stats().unwrap().state.file_bytes;
        node.close().unwrap();
        files
    };
    // 4 MiB: more than the four buffers that there may be of the one, of which writers wait for the rest.
    assert!(files_after_writing(256 << 10) > 0);
    assert_eq!(files_after_writing(64 << 20), 0);
}

#[test]
fn a_log_whose_segments_hold_no_write_of_the_largest_size_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::alone(directory.path());
    options.log.segment_bytes = 1 << 20;
    let refused = Node::open(options).map(drop);
    assert!(matches!(refused, Err(OpenError::SegmentsTooSmall { segment_bytes: 1_048_576, .. })), "{refused:?}");
}

#[test]
fn i3_a_log_that_is_ahead_of_its_promise_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let cluster = node.identity().cluster;
    node.default_namespace().write(append("s", Expect::Any, "x")).unwrap().wait().unwrap();
    node.close().unwrap();
    // As if the disk had lost the newest promise and kept what followed it.
    let (wal, _) = Wal::open(directory.path().join("wal"), NodeOptions::alone(directory.path()).log).unwrap();
    let log = ConfigMaster::lineage(cluster, SHARD);
    let end: LogPosition = wal.end(log);
    let later = Epoch { term: end.epoch.term + 1, ..end.epoch };
    let block = Block::encode(Bytes::from_static(b"x"), 1, Compression::Never);
    wal.append(BatchBuilder::new(log, BatchKind::Data, later, end, 0).block(block).seal().unwrap()).unwrap();
    wal.close().unwrap();
    let refused = Node::open(NodeOptions::alone(directory.path())).map(drop);
    assert!(matches!(refused, Err(OpenError::PromiseLost { found, .. }) if found == later), "{refused:?}");
}

#[test]
fn i1_what_is_answered_early_has_its_place_in_order_and_is_there_after_a_clean_close() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let event = |number: u64| Write::new().append("s", Expect::Any, number.to_string());
    let mut last = None;
    for number in 0..300 {
        let receipt = match number % 2 {
            0 => space.write_buffered(event(number), SubmitPolicy::Wait),
            _ => space.write_durable(event(number), SubmitPolicy::Wait),
        };
        let position = receipt.unwrap().wait().unwrap();
        assert!(last.replace(position.lsn).is_none_or(|last| last < position.lsn));
        if number == 150 {
            let read =
                space.read_stream("s", 0, Direction::Backward, (1, 100), Read::AtLeast(position.token())).unwrap();
            assert_eq!(read.head, 151);
        }
    }
    let conditional =
        [Write::new().append("s", Expect::Version(3), "x"), Write::new().put("k", "v").expect("k", Expect::Absent)];
    for write in conditional {
        let refused = space.write_buffered(&write, SubmitPolicy::Wait).map(drop);
        assert!(matches!(refused, Err(WriteRefused::NeedsOutcome)), "{refused:?}");
    }
    let receipts: Vec<_> =
        (300..500).map(|number| space.write_buffered(event(number), SubmitPolicy::Wait).unwrap()).collect();
    let placed = receipts.into_iter().filter(|receipt| matches!(receipt.wait_for(Duration::ZERO), Ok(Some(_)))).count();
    node.close().unwrap();
    let node = open(directory.path());
    let there = values(&node, "s");
    assert!(there.len() >= 300 + placed, "{} of {placed}", there.len());
    assert!(there.iter().enumerate().all(|(at, value)| at.to_string() == *value), "the beginning of what was written");
    node.close().unwrap();
}

/// Fault D23. What the message says is done here, and helps.
#[test]
fn a_shard_whose_state_is_damaged_stops_and_says_how_it_is_made_anew_from_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    for number in 0..1000 {
        node.default_namespace().append(number.to_string(), Expect::Any, vec![7; 100]).unwrap().wait().unwrap();
    }
    let (_, digest) = node.digest().unwrap();
    node.close().unwrap(); // which flushes
    let state = directory.path().join("state");
    let tables = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    for table in tables.filter(|path| path.extension().is_some_and(|end| end == "sst")) {
        let mut bytes = std::fs::read(&table).unwrap();
        if bytes.len() < 4096 {
            continue; // What the shard reads at first, without which the node does not open.
        }
        // Blocks of data lie at the front; index and footer, without which the file does not open, behind them.
        bytes[..16].fill(0xFF);
        std::fs::write(&table, bytes).unwrap();
    }
    let node = open(directory.path());
    let receipt = node.default_namespace().append("0", Expect::Version(1), "x").unwrap();
    assert!(receipt.wait().is_err(), "its version can't be read");
    let said = loop {
        match node.default_namespace().append("0", Expect::Version(1), "x") {
            Err(stopped @ WriteRefused::Stopped { .. }) => break stopped.to_string(),
            Ok(receipt) => drop(receipt.wait()),
            Err(_) => {}
        }
    };
    assert!(said.contains("damaged") && said.contains("move its directory `state` away"), "{said}");
    node.close().unwrap();
    std::fs::rename(&state, directory.path().join("damaged")).unwrap();
    let node = open(directory.path());
    // What was in doubt is in the log, and so in the state that is made of it.
    let bounds = (usize::MAX, usize::MAX);
    let read = node.default_namespace().read_stream("0", 1, Direction::Forward, bounds, Read::Linearizable).unwrap();
    assert_eq!(read.events.len(), 2);
    assert_ne!(node.digest().unwrap().1, digest);
    node.close().unwrap();
}

#[test]
fn a_panic_in_a_look_at_a_snapshot_goes_to_its_caller_and_holds_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    space.put("k", "1").unwrap().wait().unwrap();
    let looks: [fn(&Namespace); 2] = [
        |space| {
            drop(space.snapshot(Read::Linearizable, |_| -> Result<(), _> { std::panic::panic_any("a program's own") }))
        },
        |space| {
            let load = |_: &towline::node::Snapshot<'_>| -> Result<(), _> { std::panic::panic_any("a program's own") };
            drop(space.snapshot_and_feed(Read::Linearizable, Filter::All, load));
        },
    ];
    for look in looks {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&space))).unwrap_err();
        assert_eq!(panicked.downcast_ref(), Some(&"a program's own"));
    }
    assert_eq!(node.stats().unwrap().shards[0].pins, 0, "the feed went with its caller");
    space.put("k", "2").unwrap().wait().unwrap();
    let (value, mut feed) =
        space.snapshot_and_feed(Read::Linearizable, Filter::All, |snapshot| snapshot.get("k")).unwrap();
    assert_eq!(value.unwrap().value, "2");
    space.delete("k").unwrap().wait().unwrap();
    assert_eq!(feed.wait().unwrap().operations.len(), 1);
    assert_eq!(node.failure(), None);
    drop(feed);
    node.close().unwrap();
}

/// Whoever polls brings a waker of an executor that is not ours; it is called on the node's threads.
#[test]
fn a_panic_in_a_waker_of_the_program_stops_nothing() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            std::panic::panic_any("of the executor");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let waker = Waker::from(Arc::new(Panics));
    let mut feed = space.subscribe(Since::Now, Filter::All).unwrap();
    for number in 0..20 {
        // Asked before there is anything: both wakers are called.
        assert!(feed.poll_next(&mut Context::from_waker(&waker)).is_pending());
        let mut receipt = space.put("k", number.to_string()).unwrap();
        if let Poll::Ready(answer) = Pin::new(&mut receipt).poll(&mut Context::from_waker(&waker)) {
            answer.unwrap();
        }
        receipt.wait().unwrap();
        assert_eq!(feed.wait().unwrap().operations.len(), 1);
    }
    assert_eq!(node.failure(), None);
    node.close().unwrap();
}
