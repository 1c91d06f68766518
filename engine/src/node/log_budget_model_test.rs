//! The log's budget in many orders of the steps of shards and of the log: who finds no room is called when there is. A call
//! that does not come is a deadlock here, which fails.

use super::log_budget::LogBudget;
use crate::model::ShardId;
use crate::model::limits::UNDURABLE_BYTES_MAX;
use crate::pipeline::Ready;
use crate::pipeline::sync::{check, thread};
use std::sync::Arc;

#[test]
fn who_finds_no_room_is_called_when_there_is() {
    check(|| {
        let budget = Arc::<LogBudget>::default();
        // Two must go before there is room, in whichever order; and whoever finds room leaves none for the others for a while.
        let [most, few, rest] = [UNDURABLE_BYTES_MAX - 1, 1, 1].map(|bytes| budget.take(bytes));
        let shards: Vec<_> = (1..=3)
            .map(|shard| {
                let budget = Arc::clone(&budget);
                thread::spawn(move || {
                    let ready = Ready::new();
                    let bell = ready.bell(ShardId::new(shard));
                    while !budget.has_room(&bell) {
                        ready.wait(None);
                        while ready.next().is_some() {
                            bell.answer();
                        }
                    }
                    drop(budget.take(2));
                })
            })
            .collect();
        let log = [few, rest].map(|taken| thread::spawn(move || drop(taken)));
        log.into_iter().chain(shards).for_each(|thread| thread.join().unwrap());
        drop(most);
        assert!(budget.has_room(&Ready::new().bell(ShardId::new(4))));
    });
}
