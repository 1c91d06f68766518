//! The queue: nothing lost, nothing twice, bounds kept, sleepers woken.

use super::{Busy, Disk, Ready, Submission, SubmissionQueue, SubmitError, SubmitPolicy};
use crate::model::ShardId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::Duration;

fn submission(bytes: usize, token: u64) -> Submission<u64> {
    Submission::record(Bytes::from(vec![0; bytes]), token)
}

/// A queue whose consumer does not sleep.
fn queue(slots: usize, bytes_max: usize) -> SubmissionQueue<u64> {
    SubmissionQueue::new(slots, bytes_max, Ready::new().bell(ShardId::new(1)))
}

fn is_busy(error: SubmitError) -> bool {
    matches!(error, SubmitError::Busy(_))
}

#[test]
fn who_finds_no_room_is_told_to_come_back_when_half_of_the_queue_may_be_free() {
    let queue = queue(1, 1000);
    queue.submit(submission(10, 1), SubmitPolicy::Fail).unwrap();
    let after = |waited| {
        queue.set_waited(waited);
        match queue.submit(submission(10, 2), SubmitPolicy::Fail).unwrap_err().0 {
            SubmitError::Busy(busy) => busy.after,
            other => panic!("{other}"),
        }
    };
    assert_eq!(after(Duration::from_millis(80)), Duration::from_millis(40));
    assert_eq!(after(Duration::ZERO), Busy::AFTER_MIN);
    assert_eq!(after(Duration::MAX), Busy::AFTER_MAX);
}

#[test]
fn a_full_queue_says_busy_at_once_or_after_the_time_given_and_keeps_its_byte_budget() {
    let queue = queue(100, 100);
    queue.submit(submission(60, 1), SubmitPolicy::Fail).unwrap();
    let (error, back) = queue.submit(submission(60, 2), SubmitPolicy::Fail).unwrap_err();
    let SubmitError::Busy(busy) = error else { panic!("{error}") };
    assert_eq!(back.into_token(), 2);
    let found = (busy.bytes, busy.held_bytes, busy.bytes_max, busy.writes, busy.writes_max, busy.waiting);
    assert_eq!((found, busy.after), ((60, 60, 100, 1, 100, 0), Busy::AFTER_MIN));
    let patient = SubmitPolicy::WaitFor(Duration::from_millis(5));
    assert!(is_busy(queue.submit(submission(60, 3), patient).unwrap_err().0));
    queue.submit(submission(40, 4), SubmitPolicy::Fail).unwrap();
    assert_eq!(queue.bytes(), 100);
    assert_eq!(queue.pop().unwrap().into_token(), 1);
    assert_eq!(queue.bytes(), 40);
}

#[test]
fn a_submission_larger_than_the_budget_is_taken_alone() {
    let queue = queue(100, 100);
    queue.submit(submission(500, 1), SubmitPolicy::Fail).unwrap();
    assert!(is_busy(queue.submit(submission(1, 2), SubmitPolicy::Fail).unwrap_err().0));
    queue.pop().unwrap();
    queue.submit(submission(1, 2), SubmitPolicy::Fail).unwrap();
}

#[test]
fn a_write_that_finds_no_place_takes_no_bytes_either() {
    let queue = queue(1, 1000);
    queue.submit(submission(10, 1), SubmitPolicy::Fail).unwrap();
    assert!(queue.submit(submission(10, 2), SubmitPolicy::Fail).is_err());
    assert_eq!(queue.bytes(), 10);
}

#[test]
fn closing_refuses_what_comes_wakes_who_waits_and_keeps_what_is_there() {
    let queue = Arc::new(queue(1, 1000));
    queue.submit(submission(10, 1), SubmitPolicy::Fail).unwrap();
    let blocked = Arc::clone(&queue);
    let producer = Builder::new()
        .spawn(move || blocked.submit(submission(10, 2), SubmitPolicy::Wait).map_err(|(error, _)| error))
        .unwrap();
    queue.close();
    assert_eq!(producer.join().unwrap(), Err(SubmitError::Closed));
    assert_eq!(queue.pop().unwrap().into_token(), 1);
    assert!(queue.is_empty());
}

#[test]
fn many_producers_and_a_sleeping_consumer_lose_nothing_and_keep_each_producers_order() {
    const PRODUCERS: u64 = 6;
    const EACH: u64 = 3_000;
    const BYTES_MAX: usize = 256;
    let ready = Ready::new();
    let bell = ready.bell(ShardId::new(1));
    let queue = Arc::new(SubmissionQueue::new(16, BYTES_MAX, Arc::clone(&bell)));
    let most = Arc::new(AtomicUsize::new(0));
    let mut producers = Vec::new();
    for producer in 0..PRODUCERS {
        let (queue, most) = (Arc::clone(&queue), Arc::clone(&most));
        let body = move || {
            for number in 0..EACH {
                let token = producer * EACH + number;
                queue.submit(submission(8 + (number % 32) as usize, token), SubmitPolicy::Wait).unwrap();
                most.fetch_max(queue.bytes(), Ordering::SeqCst);
            }
        };
        producers.push(Builder::new().spawn(body).unwrap());
    }
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut taken = 0;
    while taken < PRODUCERS * EACH {
        match queue.pop() {
            Some(submission) => {
                let token = submission.into_token();
                let before = last.insert(token / EACH, token % EACH);
                assert!(before.is_none_or(|before| before + 1 == token % EACH), "in order, none missing");
                taken += 1;
            }
            None => {
                ready.wait(None);
                while ready.next().is_some() {
                    bell.answer();
                }
            }
        }
    }
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    assert!(most.load(Ordering::SeqCst) <= BYTES_MAX, "the byte budget was exceeded");
    assert_eq!(queue.bytes(), 0);
}

#[test]
fn those_who_wait_go_first_and_a_large_write_does_not_starve_among_small_ones() {
    let queue = Arc::new(queue(100, 100));
    queue.submit(submission(50, 0), SubmitPolicy::Fail).unwrap();
    let blocked = Arc::clone(&queue);
    let large = Builder::new().spawn(move || blocked.submit(submission(90, 1), SubmitPolicy::Wait).is_ok()).unwrap();
    while queue.waiting() == 0 {
        std::thread::yield_now();
    }
    assert!(is_busy(queue.submit(submission(1, 2), SubmitPolicy::Fail).unwrap_err().0));
    assert_eq!(queue.pop().unwrap().into_token(), 0);
    assert!(large.join().unwrap());
    queue.submit(submission(1, 3), SubmitPolicy::Fail).unwrap();
    assert_eq!(queue.pop().unwrap().into_token(), 1);
}

#[test]
fn one_who_gives_up_waiting_lets_the_next_in() {
    let queue = Arc::new(queue(100, 100));
    queue.submit(submission(60, 0), SubmitPolicy::Fail).unwrap();
    let wait = |bytes, token, policy| {
        let queue = Arc::clone(&queue);
        Builder::new()
            .spawn(move || queue.submit(submission(bytes, token), policy).map_err(|(error, _)| error))
            .unwrap()
    };
    let impatient = wait(90, 1, SubmitPolicy::WaitFor(Duration::from_millis(50)));
    while queue.waiting() == 0 {
        std::thread::yield_now();
    }
    let patient = wait(30, 2, SubmitPolicy::Wait);
    assert!(is_busy(impatient.join().unwrap().unwrap_err()));
    assert_eq!(patient.join().unwrap(), Ok(()), "it fits as soon as the first is out of its way");
}

#[test]
fn the_sweep_after_a_close_waits_for_a_producer_that_is_half_way_in() {
    let queue = Arc::new(queue(4, 64));
    let half_way = submission(16, 7);
    queue.reserve(&half_way).unwrap();
    queue.close();
    assert_eq!(queue.submit(submission(1, 8), SubmitPolicy::Wait).unwrap_err().0, SubmitError::Closed);
    let (tell, swept) = std::sync::mpsc::channel();
    let consumer = Arc::clone(&queue);
    let sweep = move || tell.send(consumer.pop().map(Submission::into_token)).unwrap();
    let sweeping = Builder::new().spawn(sweep).unwrap();
    let early = swept.recv_timeout(Duration::from_millis(50));
    assert!(early.is_err(), "the sweep ended while a producer was half way in: {early:?}");
    queue.push_reserved(half_way);
    assert_eq!(swept.recv().unwrap(), Some(7));
    sweeping.join().unwrap();
    assert!(queue.pop().is_none() && queue.is_empty());
}

#[test]
fn closing_under_load_leaves_nobody_waiting_and_nothing_behind() {
    for round in 0..200 {
        let queue = Arc::new(queue(4, 64));
        let taken = Arc::new(AtomicUsize::new(0));
        let producers: Vec<_> = (0..4)
            .map(|_| {
                let (queue, taken) = (Arc::clone(&queue), Arc::clone(&taken));
                let body = move || {
                    while queue.submit(submission(16, 0), SubmitPolicy::Wait).is_ok() {
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                };
                Builder::new().spawn(body).unwrap()
            })
            .collect();
        let mut popped = 0;
        for _ in 0..round {
            popped += usize::from(queue.pop().is_some());
        }
        queue.close();
        while queue.pop().is_some() {
            popped += 1;
        }
        assert!(queue.is_empty());
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        assert_eq!(popped, taken.load(Ordering::SeqCst), "round {round}: after the last sweep nothing comes");
        assert!(queue.pop().is_none());
    }
}

/// Fault D10, and D9 above the log.
#[test]
fn while_a_disk_is_full_nothing_comes_in_and_who_waits_hears_it() {
    let queue = Arc::new(queue(1, 1000));
    queue.submit(submission(10, 1), SubmitPolicy::Fail).unwrap();
    let blocked = Arc::clone(&queue);
    let producer = Builder::new()
        .spawn(move || blocked.submit(submission(10, 2), SubmitPolicy::Wait).map_err(|(error, _)| error))
        .unwrap();
    while queue.waiting() == 0 {
        std::thread::yield_now();
    }
    assert!(queue.set_full(Disk::State, true) && !queue.set_full(Disk::State, true), "news once");
    assert_eq!(producer.join().unwrap(), Err(SubmitError::DiskFull(Disk::State)));
    assert_eq!(queue.pop().unwrap().into_token(), 1, "what is in the queue stays");
    queue.set_full(Disk::Log, true);
    let refused = |queue: &SubmissionQueue<u64>| queue.submit(submission(1, 3), SubmitPolicy::Wait).unwrap_err().0;
    assert_eq!(refused(&queue), SubmitError::DiskFull(Disk::Log));
    queue.set_full(Disk::Log, false);
    assert_eq!(refused(&queue), SubmitError::DiskFull(Disk::State));
    assert!(queue.set_full(Disk::State, false) && !queue.set_full(Disk::State, false), "news once");
    queue.submit(submission(1, 4), SubmitPolicy::Fail).unwrap();
    queue.set_full(Disk::State, true);
    assert_eq!(queue.full_disk(), Some(Disk::State));
    queue.close();
    assert_eq!(refused(&queue), SubmitError::Closed);
    assert_eq!(queue.full_disk(), None, "a shard that has stopped waits for no room");
}
