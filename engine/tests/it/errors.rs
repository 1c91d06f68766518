//! What errors say of themselves is what the book says of them.

use std::path::{Path, PathBuf};
use towline::model::request::FailureClass;
use towline::model::{ClusterId, Epoch, Expect, Filter, NodeId, Policy, Read, ShardId, Since, Token, Write};
use towline::node::{BackupOptions, Error, FollowerOptions, NamespaceOptions, Node, NodeOptions, verify_backup};
use towline::pipeline::SubmitPolicy;

/// The class that the tables of the book say for a code; none: it has no line of its own.
fn class_in_the_book(code: u16) -> Option<String> {
    let engine = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let row = format!("| TW-{code} | ");
    ["errors.md", "wal.md"].iter().find_map(|page| {
        let text = std::fs::read_to_string(engine.join("../docs/src").join(page)).unwrap();
        let found = text.lines().find_map(|line| line.strip_prefix(&row))?;
        found.split(" | ").next().map(str::to_owned)
    })
}

fn words(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Retry => "retry",
        FailureClass::ReRoute => "re-route",
        FailureClass::FixRequest => "fix the request",
        FailureClass::Operator => "operator",
        FailureClass::Damage => "damage",
        _ => "a class that the book does not have",
    }
}

fn of<T>(result: Result<T, impl Into<Error>>) -> Error {
    match result {
        Ok(_) => panic!("it worked"),
        Err(error) => error.into(),
    }
}

/// Directories that do not open.
fn of_openings(directory: &Path) -> Vec<(Error, u16)> {
    let with = |name: &str, change: fn(&mut NodeOptions)| {
        let mut options = NodeOptions::alone(directory.join(name));
        change(&mut options);
        of(Node::open(options))
    };
    vec![
        (with("in-use", |_| {}), 1201),
        (with("odd", |options| options.log.segment_bytes = 1000), 1207),
        (with("in-use", |options| options.cluster = Some(ClusterId::new([9; 16]))), 6011),
        (with("small", |options| options.log.segment_bytes = 1 << 20), 6026),
        (with("stranger", |options| options.voters = vec![NodeId::new(7)]), 6027),
    ]
}

/// Calls of a node that serves.
fn of_calls(node: &Node, directory: &Path) -> Vec<(Error, u16)> {
    let (default, since) = (node.default_namespace(), FollowerOptions::since(Since::Beginning));
    let split = NamespaceOptions::default().split_at(["m"]).policy(Policy { sessions_max: 1, ..Policy::default() });
    let two = node.create_namespace("two", &split).unwrap();
    let gone = node.create_namespace("gone", &NamespaceOptions::default()).unwrap();
    node.drop_namespace("gone").unwrap();
    let written = default.put("key", "value").unwrap().wait().unwrap();
    let lost = Token::at(written.shard, Epoch::new(1, 1), written.lsn);
    let elsewhere = Filter::Shard(ShardId::new(9));
    let _follower = default.follow("mailer", &since).unwrap();
    let session = two.open_session().unwrap();
    let receipt = session.write(Write::new().put("a", "1")).unwrap();
    let other_shard = session.retry(receipt.number(), Write::new().put("z", "1"));
    let conditional = Write::new().expect("key", Expect::Absent).put("key", "other");
    let here = directory.join("in-use");
    let options = NamespaceOptions::default();
    vec![
        (of(two.write(Write::new().put("a", "1").put("z", "1"))), 5505),
        (of(node.create_namespace("a/b", &options)), 5511),
        (of(default.follow("a/b", &since)), 5511),
        (of(node.create_namespace("two", &options)), 5512),
        (of(node.namespace("nobody")), 5513),
        (of(node.drop_namespace("default")), 5514),
        (of(node.create_namespace("x", &options.clone().split_at(["m", "g"]))), 5502),
        (of(default.get("", Read::Eventual)), 6101),
        (of(default.get("key", Read::AtLeast(lost.clone()))), 6103),
        (of(gone.get("key", Read::Eventual)), 6106),
        (of(default.put("", "an empty key")), 6111),
        (of(default.put("large", vec![7; 64 << 20])), 6111),
        (of(default.write_durable(&conditional, SubmitPolicy::Wait)), 6112),
        (of(other_shard), 6113),
        (of(gone.put("key", "value")), 6116),
        (of(default.subscribe(Since::Token(lost), Filter::All)), 6202),
        (of(default.subscribe(Since::Beginning, elsewhere)), 6203),
        (of(default.follow("mailer", &since)), 6211),
        (of(node.backup(&here, &BackupOptions::default())), 6301),
        (of(verify_backup(&here)), 6302),
        (of(two.open_session()), 6501),
    ]
}

/// A node of several, which changes nothing by itself.
fn of_several(directory: &Path) -> Vec<(Error, u16)> {
    let mut options = NodeOptions::alone(directory.join("several"));
    options.cluster = Some(ClusterId::new([7; 16]));
    options.voters = [1, 2, 3].map(NodeId::new).to_vec();
    (options.node, options.leader) = (NodeId::new(2), NodeId::new(1));
    let node = Node::open(options).unwrap();
    let default = node.default_namespace();
    let calls = vec![
        (of(default.get("key", Read::Linearizable)), 6104),
        (of(default.put("key", "value")), 6115),
        (of(node.backup(&directory.join("backup"), &BackupOptions::default())), 6310),
        (of(node.create_namespace("two", &NamespaceOptions::default())), 6401),
    ];
    node.close().unwrap();
    calls
}

#[test]
fn every_error_has_the_code_and_the_class_that_the_book_says() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path().join("in-use"))).unwrap();
    let default = node.default_namespace();
    let mut all = of_openings(directory.path());
    all.extend(of_calls(&node, directory.path()));
    node.close().unwrap();
    all.push((of(default.get("key", Read::Eventual)), 6105));
    all.push((of(default.put("key", "value")), 5102));
    all.extend(of_several(directory.path()));
    for (error, code) in all {
        assert_eq!(error.code(), code, "{error}");
        let class = class_in_the_book(code).unwrap_or_else(|| panic!("TW-{code} has no line: {error}"));
        let said = words(error.class());
        assert!(
            class.split(", or ").any(|word| word == said),
            "TW-{code} is '{said}', the book says '{class}': {error}"
        );
    }
}
