//! A sequencer's thread: it takes the turns of the shards that it serves, of those that were called.

use super::Inbox;
use super::health::Health;
use super::positions::Positions;
use super::read_index::ReadIndex;
use super::shard::{Shard, Turn, now};
use crate::model::ShardId;
use crate::pipeline::Ready;
use crossbeam::channel::Receiver;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// What a worker is told. Whoever tells it something wakes it by [`Ready::wake`].
pub(super) enum Order {
    /// Serve this shard.
    Host(Box<Shard>),
    /// End, as soon as no shard is left.
    End,
}

/// Turns until orders and deadlines are looked at again.
const TURNS_MAX: usize = 64;

pub(super) struct Worker {
    pub(super) ready: Arc<Ready>,
    pub(super) orders: Receiver<Order>,
}

/// The worker's own state.
#[derive(Default)]
struct Serving {
    shards: BTreeMap<ShardId, Hosted>,
    /// When to look at a shard that nobody called.
    deadlines: BTreeSet<(Instant, ShardId)>,
    is_ending: bool,
}

struct Hosted {
    shard: Box<Shard>,
    deadline: Option<Instant>,
}

impl Worker {
    /// What its thread is called.
    pub(super) const NAME: &'static str = "towline-shard";

    /// Runs until it is told to end and every shard has ended.
    pub(super) fn run(self) {
        let mut serving = Serving::default();
        loop {
            self.take_orders(&mut serving);
            // Others than those who are called have their time too: orders, deadlines.
            let mut turns = 0;
            while turns < TURNS_MAX
                && let Some(shard) = self.ready.next()
            {
                turns += 1;
                if !serving.shards.contains_key(&shard) {
                    // It was called before its order was looked at; or it has ended, and nobody needs to be heard.
                    self.take_orders(&mut serving);
                }
                self.called(&mut serving, shard);
            }
            if serving.is_ending && serving.shards.is_empty() {
                return;
            }
            if turns == 0 {
                let next = serving.deadlines.first().map(|(at, _)| *at);
                self.ready.wait(next.map(|at| at.saturating_duration_since(now())));
            }
            while let Some((at, shard)) = serving.deadlines.first().copied().filter(|(at, _)| *at <= now()) {
                serving.deadlines.remove(&(at, shard));
                self.guarded(&mut serving, shard, Shard::turn);
            }
        }
    }

    fn take_orders(&self, serving: &mut Serving) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Host(shard) => self.host(serving, shard),
                Order::End => serving.is_ending = true,
            }
        }
    }

    fn host(&self, serving: &mut Serving, shard: Box<Shard>) {
        let id = shard.shard;
        // Calls until now may have been passed over, as of nobody: from here on each is heard.
        shard.events.bell.answer();
        serving.shards.insert(id, Hosted { shard, deadline: None });
        self.guarded(serving, id, |shard| {
            shard.start();
            Turn::Again
        });
    }

    /// One that was called has its turn.
    fn called(&self, serving: &mut Serving, id: ShardId) {
        self.guarded(serving, id, |shard| {
            // Once for each time that it was in the list: answered more often, it would be in there more often than once.
            shard.events.bell.answer();
            shard.turn()
        });
    }

    /// A turn of one shard. A panic in it is that shard's end: the others go on.
    fn guarded(&self, serving: &mut Serving, id: ShardId, turn: impl FnOnce(&mut Shard) -> Turn) {
        let Some(hosted) = serving.shards.get_mut(&id) else { return };
        if let Some(at) = hosted.deadline.take() {
            serving.deadlines.remove(&(at, id));
        }
        let shard = &mut hosted.shard;
        match catch_unwind(AssertUnwindSafe(|| turn(shard))) {
            Ok(Turn::Idle(None)) => {}
            Ok(Turn::Idle(Some(at))) => {
                hosted.deadline = Some(at);
                serving.deadlines.insert((at, id));
            }
            Ok(Turn::Again) => shard.events.bell.ring(),
            Ok(Turn::Finished) => drop(serving.shards.remove(&id)),
            Err(_) => {
                let last = LastWords::of(shard);
                // Who waits for what was sealed hears by the drop of the completions.
                drop(serving.shards.remove(&id));
                last.say(Self::NAME);
            }
        }
    }
}

/// What is left of a shard whose turn panicked: nobody must wait for it.
pub(super) struct LastWords {
    pub(super) events: Inbox,
    pub(super) positions: Arc<Positions>,
    pub(super) reads: Arc<ReadIndex>,
    pub(super) health: Health,
}

impl LastWords {
    fn of(shard: &Shard) -> Self {
        let (events, positions) = (shard.events.clone(), Arc::clone(&shard.positions));
        Self { events, positions, reads: Arc::clone(&shard.reads), health: shard.health.clone() }
    }

    pub(super) fn say(&self, thread: &str) {
        self.health.fail(&format!("the thread {thread} panicked"));
        let queue = &self.events.queue;
        queue.close();
        while let Some(submission) = queue.pop() {
            submission.into_token().caller.closed();
        }
        self.positions.end();
        self.reads.end();
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{Expect, NodeId, Read};
    use crate::node::read_index::Confirmation;
    use crate::node::shard::{Event, now};
    use crate::node::{NamespaceOptions, Node, NodeOptions, ReadError, WriteRefused};
    use crate::pipeline::WriteError;
    use std::time::Duration;

    /// Each shard was in the list once for each of its rounds, so the list grew while one was busy, orders and deadlines were
    /// never looked at, and a call before the order to serve a shard was the last that it ever heard.
    #[test]
    fn a_busy_shard_holds_up_neither_new_ones_nor_the_end_and_each_is_in_the_list_once() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let busy = node.default_namespace();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                        let write = crate::model::Write::new().put("k", "v");
                        drop(busy.write_buffered(write, crate::pipeline::SubmitPolicy::Wait).unwrap());
                    }
                });
            }
            for number in 0..40 {
                let fresh = node.create_namespace(&format!("n{number}"), &NamespaceOptions::default()).unwrap();
                let answer = fresh.put("a", "1").unwrap().wait_for(Duration::from_secs(30)).unwrap();
                assert!(answer.is_some(), "namespace {number} never had a turn");
                let waiting = node.shared.host.workers[0].ready.len();
                assert!(waiting <= number + 2, "{waiting} in the list of {} shards", number + 2);
                if number % 2 == 0 {
                    node.drop_namespace(&format!("n{number}")).unwrap();
                }
            }
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        node.close().unwrap();
    }

    #[test]
    fn a_panic_in_a_turn_of_one_shard_is_its_end_and_the_others_go_on() {
        others_go_on_behind_a_panic(false, super::Worker::NAME);
    }

    #[test]
    fn a_panic_at_applying_for_one_shard_is_its_end_and_the_others_go_on() {
        others_go_on_behind_a_panic(true, crate::node::applier::ApplierThread::NAME);
    }

    /// Whoever asked what is newest waited for an answer of nobody until its time was over, and so did whoever came later.
    #[test]
    fn a_panic_in_a_turn_is_told_to_the_reads_that_wait_for_other_nodes_and_to_those_that_come() {
        let directory = tempfile::tempdir().unwrap();
        let voters = [1, 2, 3].map(NodeId::new).to_vec();
        let node = Node::open(NodeOptions { voters, ..NodeOptions::alone(directory.path()) }).unwrap();
        let space = node.default_namespace().reading_within(Duration::from_secs(300));
        let shard = node.default_shard();
        let (sender, waits) = crossbeam::channel::bounded(1);
        shard.events.send(Event::Explode { in_apply: false });
        let _ticket = shard.confirm(move |confirmation| drop(sender.send(confirmation)));
        assert_eq!(waits.recv_timeout(Duration::from_secs(60)), Ok(Confirmation::Ended));
        let begun = now();
        for read in [Read::MaxStaleness(Duration::from_secs(1)), Read::Linearizable] {
            let refused = space.get("a", read).unwrap_err();
            assert!(matches!(&refused, ReadError::Stopped { reason, .. } if reason.contains("panicked")), "{refused}");
        }
        assert!(now().saturating_duration_since(begun) < Duration::from_secs(60), "at once");
        node.close().unwrap();
    }

    fn others_go_on_behind_a_panic(in_apply: bool, thread: &str) {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let split = NamespaceOptions::default().split_at(["m"]);
        let both = node.create_namespace("both", &split).unwrap().reading_within(Duration::from_millis(50));
        both.put("a", "1").unwrap().wait().unwrap();
        let shard = node.shared.registry.named("both").unwrap().shards[0].clone();
        shard.events.send(Event::Explode { in_apply });
        let receipts: Vec<_> = (0..50).map_while(|_| both.append("b", Expect::Any, "x").ok()).collect();
        for receipt in receipts {
            match receipt.wait() {
                Ok(_) | Err(WriteError::Closed | WriteError::Unknown) => {}
                Err(WriteError::NotLeader) => panic!("nobody else leads"),
            }
        }
        let refused = loop {
            // Until the turn was taken.
            match both.put("b", "2") {
                Ok(receipt) => drop(receipt.wait()),
                Err(WriteRefused::Submit(_)) => {}
                Err(refused) => break refused,
            }
        };
        assert!(matches!(&refused, WriteRefused::Stopped { reason, .. } if reason.contains(thread)), "{refused}");
        assert!(node.failure().unwrap().contains("panicked"));
        both.put("z", "3").unwrap().wait().unwrap();
        assert_eq!(both.get("z", Read::Linearizable).unwrap().unwrap().value, "3");
        assert!(both.get("a", Read::Eventual).unwrap().is_some(), "what was applied is still read");
        assert!(matches!(both.get("a", Read::Linearizable), Err(ReadError::Stopped { .. })));
        node.close().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let both = node.namespace("both").unwrap();
        assert_eq!(both.get("a", Read::Linearizable).unwrap().unwrap().value, "1");
        both.put("a", "2").unwrap().wait().unwrap();
        node.close().unwrap();
    }
}
