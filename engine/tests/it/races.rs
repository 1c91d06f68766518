//! Many who want the same thing at one time.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use towline::model::{Expect, Outcome, Read, Rejection, Write};
use towline::node::{Node, NodeOptions};

const THREADS: usize = 100;
const ROUNDS: usize = 30;

#[test]
fn of_a_hundred_that_set_a_key_from_one_version_one_wins_and_each_other_hears_the_version_of_the_winner() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = node.default_namespace();
    let version = AtomicU64::new(space.put("k", "nobody").unwrap().wait().unwrap().lsn.get());
    let barrier = Barrier::new(THREADS);
    // Nothing is asserted in the threads: one that ended early would leave the others waiting at the barrier.
    let race = |name: usize| {
        let round = |_| {
            let from = version.load(Ordering::SeqCst);
            barrier.wait();
            let write = Write::new().expect("k", Expect::Version(from)).put("k", name.to_string());
            let heard = space.write(write).map(|receipt| receipt.wait());
            // The newest there is: were there two winners, the rounds would go on, and be told below.
            if let Ok(Ok(written)) = &heard
                && let Outcome::Applied { version: newest } = written.outcome
            {
                version.fetch_max(newest, Ordering::SeqCst);
            }
            barrier.wait();
            heard
        };
        (0..ROUNDS).map(round).collect::<Vec<_>>()
    };
    let race = &race;
    let mut heard: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..THREADS).map(|name| scope.spawn(move || race(name))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap().into_iter()).collect()
    });
    let mut last = None;
    for round in 0..ROUNDS {
        let (mut winners, mut losers) = (Vec::new(), Vec::new());
        for (name, heard) in heard.iter_mut().enumerate() {
            let written = heard.next().unwrap().unwrap().unwrap();
            match written.outcome {
                Outcome::Applied { version } => {
                    assert_eq!(version, written.lsn.get(), "round {round}, thread {name}");
                    winners.push((name, version));
                }
                Outcome::Rejected(rejection) => losers.push((name, rejection)),
                other => panic!("round {round}, thread {name}: {other:?}"),
            }
        }
        let [(winner, version)] = winners[..] else { panic!("round {round} has the winners {winners:?}") };
        for (name, rejection) in losers {
            let of_winner = Rejection::Precondition { index: 0, actual: version };
            assert_eq!(rejection, of_winner, "round {round}, thread {name}");
        }
        last = Some((winner, version));
    }
    let (winner, version) = last.unwrap();
    let found = space.get("k", Read::Linearizable).unwrap().unwrap();
    assert_eq!((found.value, found.version), (winner.to_string().into(), version));
    node.close().unwrap();
}
