//! Feeds: every effective record once, in order, from wherever one begins.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use towline::model::{Change, Expect, Filter, Lsn, Operation, Read, Scan, ShardId, Since, Token, Write};
use towline::node::{
    Feed, FeedError, FollowError, Follower, FollowerOptions, Namespace, NamespaceOptions, Node, NodeOptions, ReadError,
};

fn open(directory: &Path) -> Node {
    Node::open(NodeOptions::alone(directory)).unwrap()
}

/// Everything that is there.
fn drain(feed: &mut Feed) -> Vec<Change> {
    std::iter::from_fn(|| feed.wait_for(Duration::ZERO).unwrap()).collect()
}

fn names(changes: &[Change]) -> Vec<String> {
    let operations = changes.iter().flat_map(|change| &change.operations);
    operations.map(|operation| String::from_utf8(operation.key().to_vec()).unwrap()).collect()
}

/// Writes of which every third has no effect: the keys of those that have.
fn write(space: &Namespace, from: usize, to: usize) -> Vec<String> {
    let mut effective = Vec::new();
    let mut receipts = Vec::new();
    for number in from..to {
        let key = format!("{}-{number:05}", ["a", "m", "z"][number % 3]);
        let mut write = Write::new().put(key.clone(), Bytes::from(vec![7; number % 300]));
        if number % 3 == 1 && number % 2 == 0 {
            write = write.expect("m-nobody", Expect::Present);
        } else {
            effective.push(key);
        }
        receipts.push(space.write(write).unwrap());
    }
    receipts.into_iter().for_each(|receipt| assert!(receipt.wait().unwrap().lsn.get() > 0));
    effective
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}

/// That each shard's changes rise.
fn assert_in_order(changes: &[Change]) {
    let mut last: BTreeMap<ShardId, u64> = BTreeMap::new();
    for change in changes {
        let before = last.insert(change.shard, change.lsn.get()).unwrap_or(0);
        assert!(before < change.lsn.get(), "{} behind {before}", change.lsn);
    }
}

#[test]
fn i6_a_feed_delivers_what_took_effect_once_in_order_and_goes_on_exactly_behind_every_token() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let split = NamespaceOptions::default().split_at(["k", "p"]);
    let space = node.create_namespace("space", &split).unwrap();
    let expected = sorted(write(&space, 0, 400));
    let mut feed = space.subscribe(Since::Beginning, Filter::All).unwrap();
    let mut tokens = vec![feed.token()];
    let mut changes = Vec::new();
    while let Some(change) = feed.wait_for(Duration::ZERO).unwrap() {
        changes.push(change);
        tokens.push(feed.token());
    }
    assert_in_order(&changes);
    assert_eq!(sorted(names(&changes)), expected);
    for (seen, token) in tokens.iter().enumerate().step_by(37) {
        let token: Token = token.to_string().parse().unwrap();
        let mut resumed = space.subscribe(Since::Token(token), Filter::All).unwrap();
        let rest = drain(&mut resumed);
        assert_in_order(&rest);
        let both: Vec<_> = changes[..seen].iter().chain(&rest).cloned().collect();
        assert_eq!(sorted(names(&both)), expected, "behind {seen} changes");
    }
    let more = sorted(write(&space, 400, 450));
    assert_eq!(sorted(names(&drain(&mut feed))), more);
    node.close().unwrap();
    // What is applied again after a crash is not delivered otherwise.
    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    let node = open(directory.path());
    let space = node.namespace("space").unwrap();
    let mut again = space.subscribe(Since::Beginning, Filter::All).unwrap();
    let all = expected.into_iter().chain(more).collect::<Vec<_>>();
    let mut found = Vec::new();
    while found.len() < all.len() {
        found.push(again.wait().unwrap());
    }
    assert_in_order(&found);
    assert_eq!(sorted(names(&found)), sorted(all));
    node.close().unwrap();
}

#[test]
fn a_filter_shows_only_what_touches_it_and_the_token_goes_on_over_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["m"])).unwrap();
    let all = |write: Write| space.write(write).unwrap().wait().unwrap();
    all(Write::new().put("a1", "x").put("b1", "x").append("a1", Expect::Any, "event"));
    all(Write::new().put("b2", "x"));
    all(Write::new().delete_range("a", "a2"));
    all(Write::new().delete_range("b", "c"));
    all(Write::new().put("z1", "x"));
    let see = |filter: Filter| {
        let mut feed = space.subscribe(Since::Beginning, filter).unwrap();
        let changes = drain(&mut feed);
        (names(&changes), feed.token())
    };
    let (found, token) = see(Filter::Prefix("a".into()));
    assert_eq!(found, ["a1", "a1", "a"]);
    assert_eq!(token, see(Filter::All).1, "what is of no interest is passed over");
    assert_eq!(see(Filter::Key("b1".into())).0, ["b1", "b"]);
    let last = space.descriptor().shards[1].shard;
    assert_eq!(see(Filter::Shard(last)).0, ["z1"]);
    let nobody = ShardId::new(77);
    assert!(matches!(space.subscribe(Since::Now, Filter::Shard(nobody)), Err(FeedError::UnknownShard(_))));
    node.close().unwrap();
}

#[test]
fn who_waits_is_woken_by_what_comes_and_by_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["m"])).unwrap();
    let mut feed = space.subscribe(Since::Now, Filter::All).unwrap();
    assert_eq!(feed.wait_for(Duration::from_millis(5)).unwrap(), None);
    let waiting = std::thread::Builder::new().spawn(move || {
        let changes = [feed.wait().unwrap(), feed.wait().unwrap()];
        (names(&changes), feed.wait())
    });
    for key in ["a", "z"] {
        space.put(key, "x").unwrap().wait().unwrap();
    }
    node.close().unwrap();
    let (found, end) = waiting.unwrap().join().unwrap();
    assert_eq!(sorted(found), ["a", "z"]);
    assert!(matches!(end, Err(FeedError::Read(ReadError::Closed))), "{end:?}");
}

#[test]
fn a_future_is_woken_once_something_comes_in_any_shard() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["m"])).unwrap();
    space.put("a", "x").unwrap().wait().unwrap();
    space.put("z", "x").unwrap().wait().unwrap();
    let mut feed = space.subscribe(Since::Now, Filter::All).unwrap();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    {
        let mut next = pin!(feed.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    // Dropped in between: nothing is lost.
    space.put("z", "y").unwrap().wait().unwrap();
    assert!(count.0.load(Ordering::SeqCst) >= 1);
    let mut next = pin!(feed.next());
    match next.as_mut().poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(change) => assert_eq!(names(&[change.unwrap()]), ["z"]),
        Poll::Pending => panic!("it is there"),
    }
    node.close().unwrap();
}

#[test]
fn a_snapshot_and_the_feed_behind_it_make_what_a_read_shows_while_writers_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["5"])).unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for number in 0..600_u32 {
                let key = (number % 10).to_string();
                // Each write counts on from the one before: a change that came twice or not at all would show.
                let write = Write::new().put(key, number.to_string());
                space.write(write).unwrap().wait().unwrap();
            }
        });
        for _ in 0..5 {
            let (mut known, mut feed) = space
                .snapshot_and_feed(Read::Linearizable, Filter::All, |snapshot| {
                    let page = snapshot.scan(&Scan::all())?;
                    Ok(page.entries.into_iter().map(|entry| (entry.key, entry.value)).collect::<BTreeMap<_, _>>())
                })
                .unwrap();
            for _ in 0..40 {
                let Some(change) = feed.wait_for(Duration::from_millis(200)).unwrap() else { break };
                for operation in change.operations {
                    let Operation::Put { key, value } = operation else { panic!("only puts") };
                    let number = |value: &Bytes| std::str::from_utf8(value).unwrap().parse::<u32>().unwrap();
                    let after = number(&value);
                    if let Some(before) = known.insert(key, value) {
                        assert_eq!(number(&before) + 10, after, "each change once, and none left out");
                    }
                }
            }
        }
        writing.join().unwrap();
    });
    node.close().unwrap();
}

#[test]
fn a_position_of_a_history_that_was_lost_is_refused_and_a_later_one_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let written = space.put("a", "1").unwrap().wait().unwrap();
    let mut epoch = written.epoch;
    epoch.term += 5;
    let lost = Since::Token(Token::at(written.shard, epoch, written.lsn));
    assert!(matches!(space.subscribe(lost, Filter::All), Err(FeedError::PositionLost { .. })));
    let mut feed = space.subscribe(Since::Token(written.token()), Filter::All).unwrap();
    assert_eq!(feed.wait_for(Duration::ZERO).unwrap(), None);
    space.put("b", "2").unwrap().wait().unwrap();
    assert_eq!(names(&[feed.wait_for(Duration::MAX).unwrap().unwrap()]), ["b"]);
    // Beyond the end nothing can be said yet; when the end is there, it can: nothing of the other history is passed over.
    let ahead = |epoch| Since::Token(Token::at(written.shard, epoch, Lsn::new(written.lsn.get() + 3)));
    let mut of_another = space.subscribe(ahead(epoch), Filter::All).unwrap();
    let mut of_this = space.subscribe(ahead(written.epoch), Filter::All).unwrap();
    for key in ["c", "d", "e", "f"] {
        space.put(key, "3").unwrap().wait().unwrap();
    }
    assert!(matches!(of_another.wait(), Err(FeedError::PositionLost { .. })));
    assert_eq!(names(&[of_this.wait().unwrap()]), ["e"]);
    node.close().unwrap();
}

#[test]
fn a_feed_of_a_dropped_namespace_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.create_namespace("space", &NamespaceOptions::default()).unwrap();
    space.put("a", "1").unwrap().wait().unwrap();
    let mut feed = space.subscribe(Since::Now, Filter::All).unwrap();
    let mut behind = space.subscribe(Since::Beginning, Filter::All).unwrap();
    node.drop_namespace("space").unwrap();
    for feed in [&mut feed, &mut behind] {
        assert!(matches!(feed.wait(), Err(FeedError::Read(ReadError::Dropped))));
    }
    node.close().unwrap();
}

fn next(follower: &mut Follower) -> Option<String> {
    let change = follower.wait_for(Duration::ZERO).unwrap()?;
    names(&[change]).pop()
}

#[test]
fn a_follower_goes_on_behind_what_it_was_done_with_also_after_a_reopen_and_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["m"])).unwrap();
    for key in ["a", "b", "z"] {
        space.put(key, "x").unwrap().wait().unwrap();
    }
    let options = FollowerOptions::since(Since::Beginning);
    let mut mailer = space.follow("mailer", &options).unwrap();
    assert!(matches!(space.follow("mailer", &options), Err(FollowError::InUse(_))));
    assert!(matches!(space.follow("no/name", &options), Err(FollowError::Name(_))));
    let seen: Vec<_> = (0..2).map(|_| next(&mut mailer).unwrap()).collect();
    mailer.acknowledge().unwrap();
    let third = next(&mut mailer).unwrap();
    drop(mailer);
    let mut mailer = space.follow("mailer", &options).unwrap();
    assert_eq!(next(&mut mailer).unwrap(), third, "it was not done with that");
    mailer.acknowledge().unwrap();
    assert_eq!(next(&mut mailer), None);
    assert_eq!(sorted(seen.into_iter().chain([third]).collect()), ["a", "b", "z"]);
    drop(mailer);
    node.close().unwrap();
    let node = open(directory.path());
    let space = node.namespace("space").unwrap();
    let known = space.followers();
    assert!(known.len() == 2 && known.iter().all(|known| known.name == "mailer" && !known.is_here), "{known:?}");
    let mut mailer = space.follow("mailer", &options).unwrap();
    assert_eq!(next(&mut mailer), None);
    space.put("c", "x").unwrap().wait().unwrap();
    assert_eq!(next(&mut mailer).unwrap(), "c");
    // Kept by itself, and more to be trusted than what the node knows.
    let kept = mailer.token();
    mailer.seek(&Token::default()).unwrap();
    assert_eq!(std::iter::from_fn(|| next(&mut mailer)).count(), 4);
    mailer.seek(&kept).unwrap();
    assert_eq!(next(&mut mailer), None);
    space.forget_follower("mailer").unwrap();
    mailer.acknowledge().unwrap();
    assert!(space.followers().is_empty(), "it goes on as a feed that nobody knows");
    let second = space.follow("mailer", &options).unwrap();
    drop(std::mem::replace(&mut mailer, second));
    assert!(matches!(space.follow("mailer", &options), Err(FollowError::InUse(_))), "the first one's end is not its");
    space.forget_follower("mailer").unwrap();
    drop(mailer);
    node.close().unwrap();
    let node = open(directory.path());
    assert!(node.namespace("space").unwrap().followers().is_empty());
    node.close().unwrap();
}

#[test]
fn of_many_who_come_by_one_new_name_at_one_time_only_one_follows() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let options = FollowerOptions::since(Since::Now);
    let here: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| space.follow("one", &options))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(here.iter().filter(|one| one.is_ok()).count(), 1);
    drop(here);
    assert!(space.follow("one", &options).is_ok());
    node.close().unwrap();
}
