use std::io::Cursor;
use std::task::{Context, Waker};

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{blank_ent, log_id};
use openraft::{Entry, RaftLogId};

use super::super::LogStore;
use super::*;
use crate::core::Options;
use crate::driver::Wal;
use crate::format::ids::LogId;

openraft::declare_raft_types!(
    /// Entries with nothing in them are enough here.
    Types:
        D = u64,
        R = u64,
);

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry<Types>> {
    indexes.map(|index| blank_ent(term, 0, index)).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// A reader looked at what is in memory, and got to the files when the log had another history: what it read from both is
/// no log that ever was.
#[test]
fn two_histories_are_not_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, segments_ahead: 1, ..Options::default() };
    let wal = Arc::new(Wal::open(dir.path(), options).unwrap().0);
    let mut store: LogStore<Types> = LogStore::open(wal, LogId::new(1)).unwrap();
    let (mut end, mut term, mut met) = (0, 1, 0);
    for _ in 0..1000 {
        run(store.blocking_append(entries(term, end..end + 5))).unwrap();
        let mut append = Box::pin(store.blocking_append(entries(term, end + 5..end + 10)));
        drop(append.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        drop(append);
        let shared = Arc::clone(&store.shared);
        let stale = shared.view(end, u64::MAX);
        run(store.truncate(log_id(term, 0, end + 3))).unwrap();
        run(store.blocking_append(entries(term + 1, end + 3..end + 8))).unwrap();
        (end, term) = (end + 8, term + 1);
        if stale.unsettled.is_empty() {
            continue;
        }
        met += 1;
        assert!(run(shared.collect(&stale, usize::MAX)).is_err());
        let now = run(shared.read(0, u64::MAX, usize::MAX)).unwrap();
        assert!(now.iter().zip(0..end).all(|(entry, index)| entry.get_log_id().index == index));
        if met == 5 {
            return;
        }
    }
    panic!("the disk was always faster than memory");
}
