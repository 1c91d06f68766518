use super::*;
use crate::node::{Node, NodeOptions};
use std::sync::atomic::AtomicUsize;

struct Called(AtomicUsize);

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A feed that admits nothing held whoever polled it for as long as the log was.
#[test]
fn a_poll_looks_at_no_more_batches_than_it_may_and_asks_to_be_polled_again() {
    const WRITES: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = node.default_namespace();
    for number in 0..WRITES {
        // Each in a batch of its own.
        space.put("k", number.to_string()).unwrap().wait().unwrap();
    }
    let mut feed = space.subscribe(Since::Beginning, Filter::Key("none".into())).unwrap();
    let called = Arc::new(Called(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&called));
    let mut context = Context::from_waker(&waker);
    let mut polls = 0;
    loop {
        let (before, mut batches) = (called.0.load(Ordering::Relaxed), 7);
        assert!(feed.poll_within(&mut context, &mut batches).is_pending());
        polls += 1;
        if called.0.load(Ordering::Relaxed) == before {
            assert!(batches > 0, "nothing more is there: it is called when there is");
            break;
        }
        assert_eq!(batches, 0);
    }
    assert!(polls > WRITES / 7, "{polls} polls for {WRITES} batches and more");
    let before = called.0.load(Ordering::Relaxed);
    space.put("none", "1").unwrap().wait().unwrap();
    assert!(called.0.load(Ordering::Relaxed) > before);
    assert!(feed.poll_within(&mut context, &mut 7).is_ready());
    drop((feed, space));
    node.close().unwrap();
}

/// Otherwise only who reads knows of it, and the shard never asks another node for it. (A node alone has none, and goes on.)
#[test]
fn d12_a_feed_that_comes_upon_rot_tells_the_shard_and_the_writes_go_on() {
    use crate::node::scrubber::tests::{put, rot, until};
    let directory = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::alone(directory.path());
    options.log.tail_cache_bytes = 0;
    let node = Node::open(options).unwrap();
    put(&node, 0..10);
    rot(directory.path(), 6);
    let mut feed = node.default_namespace().subscribe(Since::Beginning, Filter::All).unwrap();
    let mut delivered = 0;
    let error = loop {
        match feed.wait() {
            Ok(_) => delivered += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((delivered, error.code()), (6, 6204), "{error}");
    until("the shard knows", || node.stats().unwrap().shards[0].damaged_ranges == 1);
    put(&node, 10..12);
    drop(feed);
    node.close().unwrap();
}
