//! What was deleted is in no file any more, once the state was compacted and the log has gone that far.

use crate::noise::noise;
use std::path::Path;
use std::time::{Duration, Instant};
use towline::model::{Expect, Policy, Read, Retention, Write};
use towline::node::{NamespaceOptions, Node, NodeOptions};

const SMALL: &[u8] = b"the small secret of person seven";
const LARGE: &[u8] = b"the large secret of person seven";

/// The files below a directory that hold these bytes.
fn files_with(directory: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
        } else if let Ok(content) = std::fs::read(&path)
            && content.windows(bytes.len()).any(|window| window == bytes)
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test that gives up after a time")]
fn what_was_deleted_is_in_no_file_of_the_state_nor_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (state, log) = (directory.path().join("state"), directory.path().join("wal"));
    let mut options = NodeOptions::alone(directory.path());
    options.log.segment_bytes = 48 << 20;
    // Segments with little life in them are written anew at once.
    options.log.slack_segments = 0;
    let node = Node::open(options).unwrap();
    let policy = Policy { retention: Retention::bytes(0), ..Policy::default() };
    let space = node.create_namespace("people", &NamespaceOptions::default().policy(policy)).unwrap();
    // Not to be compressed away, and larger than what lies among the others.
    let large = [&noise(1, 100_000), LARGE, &noise(2, 100_000)].concat();
    let write = Write::new().put("person-7", SMALL).put("picture-7", large).append("visits-7", Expect::Any, SMALL);
    space.write(write).unwrap().wait().unwrap();
    // Others beside it, so that its files stay while these live.
    for number in 0..40 {
        space.put(format!("picture-{}", 100 + number), noise(number, 200_000)).unwrap().wait().unwrap();
    }
    node.compact().unwrap();
    assert!(!files_with(&state, SMALL).is_empty() && !files_with(&state, LARGE).is_empty(), "it can be found");
    assert!(!files_with(&log, LARGE).is_empty(), "it can be found");

    space.write(Write::new().delete("person-7").delete("picture-7").delete_stream("visits-7")).unwrap().wait().unwrap();
    node.compact().unwrap();
    for secret in [SMALL, LARGE] {
        assert_eq!(files_with(&state, secret), [""; 0]);
    }
    assert_eq!(space.get("picture-100", Read::Linearizable).unwrap().unwrap().value, noise(0, 200_000));

    // The log lets go of it within seconds, and writes over it when it needs the room again.
    let deadline = Instant::now() + Duration::from_secs(100);
    let mut number = 0;
    while !files_with(&log, LARGE).is_empty() || !files_with(&log, SMALL).is_empty() {
        assert!(Instant::now() < deadline, "still in {:?}", files_with(&log, LARGE));
        for _ in 0..48 {
            number += 1;
            space.put("filler", noise(number, 1 << 20)).unwrap().wait().unwrap();
        }
    }
    node.close().unwrap();
}
