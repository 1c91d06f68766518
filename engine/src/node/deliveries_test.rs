use super::*;
use crate::model::{Filter, Since};
use crate::model::{NamespaceOptions, Token};
use crate::node::{Namespace, Node, NodeOptions};

fn poll(deliveries: &mut Deliveries) -> Poll<Result<Vec<Change>, Failure>> {
    deliveries.poll(&mut Context::from_waker(Waker::noop()))
}

fn of(space: &Namespace) -> Deliveries {
    let feed = space.subscribe(Since::Now, Filter::All).unwrap();
    Deliveries { token: feed.token(), feed, seat: None, held: None, failed: None }
}

/// Otherwise who subscribes would miss what took effect before, or count it as delivered.
#[test]
fn what_lies_before_an_error_is_delivered_and_then_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = node.create_namespace("shop", &NamespaceOptions::default()).unwrap();
    let mut deliveries = of(&space);
    let written: Vec<_> = (0..3).map(|n| space.put("k", n.to_string()).unwrap().wait().unwrap()).collect();
    let mut changes = Vec::new();
    while changes.len() < 3 {
        let Poll::Ready(Ok(more)) = poll(&mut deliveries) else { panic!("the changes") };
        changes.extend(more);
    }
    // The last did not fit, and behind it the feed has an end.
    deliveries.held = changes.pop();
    let before = written[1];
    deliveries.token = Token::at(before.shard, before.epoch, before.lsn);
    node.drop_namespace("shop").unwrap();
    let Poll::Ready(Ok(last)) = poll(&mut deliveries) else { panic!("the last") };
    changes.extend(last);
    let lsns: Vec<_> = changes.iter().map(|change| change.lsn).collect();
    assert_eq!(lsns, written.iter().map(|written| written.lsn).collect::<Vec<_>>());
    assert_eq!(deliveries.token.get(written[2].shard), Some((written[2].epoch, written[2].lsn)));
    for _ in 0..2 {
        let Poll::Ready(Err(failure)) = poll(&mut deliveries) else { panic!("the error") };
        assert_eq!(failure.code, 6106);
    }
    drop((deliveries, space));
    node.close().unwrap();
}

/// Its turn to look at the log may not come for longer than it waits: the token would pass over what it holds.
#[test]
fn a_change_that_is_held_is_not_counted_as_delivered_while_its_feed_waits_for_its_turn() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = node.default_namespace();
    let mut deliveries = of(&space);
    let large = vec![7; CHANGES_BYTES - 100];
    let written: Vec<_> = (0..2).map(|_| space.put("k", large.clone()).unwrap().wait().unwrap()).collect();
    let Poll::Ready(Ok(changes)) = poll(&mut deliveries) else { panic!("the first") };
    assert_eq!((changes.len(), deliveries.held.is_some()), (1, true));
    let at = |deliveries: &Deliveries| deliveries.token.get(written[0].shard).unwrap().1;
    assert_eq!(at(&deliveries), written[0].lsn);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let (none, bell) = (Arc::new(Semaphore::new(0)), Arc::default());
        let (deliveries, nothing) = deliveries.next(&none, &bell).await.unwrap();
        assert_eq!((nothing.unwrap(), at(&deliveries)), (vec![], written[0].lsn));
        none.add_permits(1);
        let (deliveries, second) = deliveries.next(&none, &bell).await.unwrap();
        assert_eq!((second.unwrap().len(), at(&deliveries)), (1, written[1].lsn));
        assert_eq!(none.available_permits(), 1);
    });
    drop((runtime, space));
    node.close().unwrap();
}
