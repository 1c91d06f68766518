//! The state can't be written any more, and not for want of room: its shard says so, reads go on, and the log has everything.

use crate::noise::noise;
use std::path::Path;
use std::time::{Duration, Instant};
use towline::model::{Read, request::FailureClass};
use towline::node::{Namespace, Node, NodeOptions, WriteRefused};
use towline::pipeline::WriteError;

const VALUE_BYTES: usize = 8 << 10;

fn value(number: u64) -> Vec<u8> {
    noise(number, VALUE_BYTES)
}

fn open(directory: &Path) -> Node {
    Node::open(NodeOptions::alone(directory)).unwrap()
}

fn put(space: &Namespace, number: u64) -> Result<towline::pipeline::Receipt, WriteRefused> {
    space.put(number.to_string(), value(number))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test that gives up after a time")]
fn a_state_that_loses_its_directory_stops_its_shard_which_says_how_to_make_it_anew_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (state, away) = (directory.path().join("state"), directory.path().join("away"));
    let node = open(directory.path());
    let space = node.default_namespace().reading_within(Duration::from_millis(100));
    put(&space, 0).unwrap().wait().unwrap();
    put(&space, 1).unwrap().wait().unwrap();
    node.compact().unwrap();

    // What is open stays open; new files can't be made.
    std::fs::rename(&state, &away).unwrap();
    let failed = node.compact().unwrap_err();
    assert_eq!((failed.code(), failed.class()), (5202, FailureClass::Operator), "{failed}");

    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut number, mut in_doubt) = (2, Vec::new());
    let refused = loop {
        assert!(Instant::now() < deadline, "the shard never stopped");
        match put(&space, number).map(towline::pipeline::Receipt::wait) {
            Ok(Ok(_)) => {}
            Ok(Err(WriteError::Unknown | WriteError::Closed)) => in_doubt.push(number),
            Ok(Err(other)) => panic!("{other}"),
            Err(WriteRefused::Submit(_)) => continue,
            Err(refused) => break refused,
        }
        number += 1;
    };
    let WriteRefused::Stopped { reason, .. } = &refused else { panic!("{refused}") };
    assert!(reason.contains("the log is whole") && reason.contains("move its directory `state` away"), "{reason}");
    assert_eq!((refused.code(), refused.class()), (6117, FailureClass::Operator));
    assert_eq!(node.failure().as_ref(), Some(reason));
    assert_eq!(space.get("1", Read::Eventual).unwrap().unwrap().value, value(1), "reads go on");
    drop(space);
    drop(node.close());

    // As it says: the state is made anew, of the log alone; what was in doubt may be there or not.
    let node = open(directory.path());
    let check = |node: &Node| {
        for known in (0..number).filter(|number| !in_doubt.contains(number)) {
            let found = node.default_namespace().get(known.to_string(), Read::Linearizable).unwrap();
            assert_eq!(found.map(|found| found.value), Some(value(known).into()), "{known}");
        }
        node.digest().unwrap().1
    };
    let digest = check(&node);
    node.close().unwrap();

    // The one that broke takes from the log what it lacks, too.
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&away, &state).unwrap();
    let node = open(directory.path());
    assert_eq!(check(&node), digest);
    put(&node.default_namespace(), number).unwrap().wait().unwrap();
    node.close().unwrap();
}

/// The binding to RocksDB says of no compaction that it failed, and the count of errors was asked of the wrong family.
#[test]
fn a_compaction_that_fails_is_told_and_what_was_there_stays() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let node = open(directory.path());
    let space = node.default_namespace();
    put(&space, 0).unwrap().wait().unwrap();
    // From here on there is nothing to flush.
    node.compact().unwrap();
    let number_of = |name: &str| name.split_once('.').and_then(|(number, _)| number.parse::<u64>().ok());
    let names = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name());
    let last = names.filter_map(|name| number_of(name.to_str().unwrap())).max().unwrap();
    // No file can have a name that a directory has.
    let in_the_way: Vec<_> = (last + 1..last + 100).map(|number| state.join(format!("{number:06}.sst"))).collect();
    in_the_way.iter().for_each(|path| std::fs::create_dir(path).unwrap());
    let failed = node.compact().unwrap_err();
    assert_eq!((failed.code(), failed.class()), (5202, FailureClass::Operator), "{failed}");
    assert!(failed.to_string().contains("what was deleted may still be in the files"), "{failed}");
    assert!(node.stats().unwrap().state.background_errors > 0);
    assert_eq!(space.get("0", Read::Eventual).unwrap().unwrap().value, value(0));
    drop(space);
    node.close().unwrap();

    in_the_way.iter().for_each(|path| std::fs::remove_dir(path).unwrap());
    let node = open(directory.path());
    assert_eq!(node.default_namespace().get("0", Read::Linearizable).unwrap().unwrap().value, value(0));
    node.compact().unwrap();
    node.close().unwrap();
}
