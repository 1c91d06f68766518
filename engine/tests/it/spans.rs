//! Where time goes is told to whoever subscribes, by name.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use towline::model::{Filter, Policy, Read, Retention, Scan, Since};
use towline::node::{BackupOptions, NamespaceOptions, Node, NodeOptions};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeSet<&'static str>>>);

impl Subscriber for Names {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("towline")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.0.lock().unwrap().insert(span.metadata().name());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test that gives up after a time")]
fn every_place_where_time_goes_has_a_span() {
    let names = Names::default();
    // Of the whole process: the node has threads of its own. Where tests share one, the others are heard too.
    tracing::subscriber::set_global_default(names.clone()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    // The keeper has something to release.
    let policy = Policy { retention: Retention::bytes(0), ..Policy::default() };
    let space = node.create_namespace("space", &NamespaceOptions::default().policy(policy)).unwrap();
    let token = space.put("k", vec![7; 100_000]).unwrap().wait().unwrap().token();
    space.get("k", Read::AtLeast(token)).unwrap().unwrap();
    space.scan(&Scan::all(), Read::Linearizable).unwrap();
    space.subscribe(Since::Beginning, Filter::All).unwrap().wait().unwrap();
    node.backup(&directory.path().join("backup"), &BackupOptions::default()).unwrap();
    let expected =
        ["open", "seal", "apply", "commit", "flush", "release", "backup", "reach", "read", "log_io", "log_read"];
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = names.0.lock().unwrap().clone();
        let missing: Vec<_> = expected.iter().filter(|name| !told.contains(**name)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "no span is called {missing:?}, only {told:?}");
        space.put("k", "again").unwrap().wait().unwrap();
    }
    node.close().unwrap();
}
