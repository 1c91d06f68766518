//! [`Ledger`]: which rows are in their streams, which are on their way, and which must be looked for. Decisions only.

use super::tail::Tail;
use crate::csv_rows::Row;
use bytes::Bytes;
use std::collections::BTreeMap;
use towline::model::Expect;

/// A row to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Append {
    pub(crate) stream: Bytes,
    pub(crate) row: u64,
    pub(crate) expect: Expect,
    pub(crate) value: Bytes,
}

/// What is to be done about a row of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is in its stream.
    Skipped,
    /// Append it.
    Send(Append),
    /// Its stream is being looked at: it goes when that is done.
    Waits,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is in its stream.
    Stored,
    /// It may be, or come to be.
    Unknown,
    /// It is not, and won't: the server did not take it, or the stream had another version.
    NotStored,
}

/// The streams of a load.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    streams: BTreeMap<Bytes, Stream>,
    in_flight: usize,
    waiting: usize,
    rereads: usize,
}

#[derive(Debug)]
struct Stream {
    /// The stream's version once everything sent is in it.
    head: u64,
    /// The last row known to be in it.
    through: u64,
    /// Rows sent, by number, and not known to be in it.
    sent: BTreeMap<u64, Bytes>,
    /// Rows that wait until it is known again how the stream stands.
    waiting: Vec<(u64, Bytes)>,
    in_flight: usize,
    /// Whether `head` can be relied on: everything sent will be stored in order. Otherwise nothing more is sent,
    /// and when the last receipt is there the stream is read.
    is_trusted: bool,
}

impl Ledger {
    /// Notes how a stream stands before the load.
    pub(crate) fn begin(&mut self, stream: Bytes, tail: Tail) {
        let (head, through) = (tail.head, tail.last_row);
        let stands =
            Stream { head, through, sent: BTreeMap::new(), waiting: Vec::new(), in_flight: 0, is_trusted: true };
        self.streams.insert(stream, stands);
    }

    /// Takes the next row of the file.
    pub(crate) fn offer(&mut self, row: Row) -> Offered {
        let Some(stream) = self.streams.get_mut(&row.key) else {
            // Every stream of the file was read before; a file that changed since is found out by its rows.
            return Offered::Waits;
        };
        if row.number <= stream.through {
            return Offered::Skipped;
        }
        if !stream.is_trusted {
            stream.waiting.push((row.number, row.raw));
            self.waiting += 1;
            return Offered::Waits;
        }
        self.in_flight += 1;
        Offered::Send(stream.append(row.key, row.number, row.raw))
    }

    /// Notes what became of an append. True: all receipts of the stream are there, and it must be read.
    pub(crate) fn resolve(&mut self, key: &Bytes, row: u64, fate: Fate) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        self.in_flight -= 1;
        stream.in_flight -= 1;
        if fate == Fate::Stored {
            stream.sent.remove(&row);
            stream.through = stream.through.max(row);
        } else {
            stream.is_trusted = false;
        }
        let must_read = !stream.is_trusted && stream.in_flight == 0;
        self.rereads += usize::from(must_read);
        must_read
    }

    /// Notes what a stream was read to hold: how many rows thought missing it has, and what to append now.
    pub(crate) fn reread(&mut self, key: &Bytes, tail: Tail) -> (u64, Vec<Append>) {
        self.rereads -= 1;
        let Some(stream) = self.streams.get_mut(key) else { return (0, Vec::new()) };
        stream.head = tail.head;
        stream.through = stream.through.max(tail.last_row);
        stream.is_trusted = true;
        let sent = std::mem::take(&mut stream.sent);
        let waiting = std::mem::take(&mut stream.waiting);
        self.waiting -= waiting.len();
        let before = sent.len();
        let missing: Vec<_> = sent.into_iter().filter(|(row, _)| *row > stream.through).collect();
        let found = (before - missing.len()) as u64;
        let appends: Vec<_> =
            missing.into_iter().chain(waiting).map(|(row, raw)| stream.append(key.clone(), row, raw)).collect();
        self.in_flight += appends.len();
        (found, appends)
    }

    /// Rows on their way or waiting: what bounds memory.
    pub(crate) const fn unsettled(&self) -> usize {
        self.in_flight + self.waiting
    }

    /// Whether every row taken is known to be in its stream.
    pub(crate) const fn is_settled(&self) -> bool {
        self.in_flight == 0 && self.waiting == 0 && self.rereads == 0
    }

    /// The last row of which all rows before it are in their streams, given the last row read.
    pub(crate) fn position(&self, last_read: u64) -> u64 {
        let open = self.streams.values().filter_map(|stream| {
            let sent = stream.sent.keys().next().copied();
            sent.into_iter().chain(stream.waiting.first().map(|(row, _)| *row)).min()
        });
        open.min().map_or(last_read, |first| first - 1)
    }
}

impl Stream {
    fn append(&mut self, stream: Bytes, row: u64, value: Bytes) -> Append {
        let expect = if self.head == 0 { Expect::Absent } else { Expect::Version(self.head) };
        self.head += 1;
        self.in_flight += 1;
        self.sent.insert(row, value.clone());
        Append { stream, row, expect, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64, key: &'static str) -> Row {
        Row { number, line: number + 1, key: key.into(), raw: format!("{number},{key}").into() }
    }

    fn ledger(streams: &[(&'static str, u64, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (key, head, last_row) in streams {
            ledger.begin(Bytes::from(*key), Tail { head: *head, last_row: *last_row });
        }
        ledger
    }

    fn sent(offered: Offered) -> (u64, Expect) {
        match offered {
            Offered::Send(append) => (append.row, append.expect),
            other => panic!("{other:?}"),
        }
    }

    fn rows(appends: &[Append]) -> Vec<(u64, Expect)> {
        appends.iter().map(|append| (append.row, append.expect)).collect()
    }

    const A: Bytes = Bytes::from_static(b"a");

    #[test]
    fn rows_of_a_stream_follow_one_another_without_waiting_for_receipts() {
        let mut ledger = ledger(&[("a", 0, 0), ("b", 7, 0)]);
        assert_eq!(sent(ledger.offer(row(1, "a"))), (1, Expect::Absent));
        assert_eq!(sent(ledger.offer(row(2, "b"))), (2, Expect::Version(7)), "after what others wrote");
        assert_eq!(sent(ledger.offer(row(3, "a"))), (3, Expect::Version(1)));
        assert_eq!(ledger.unsettled(), 3);
    }

    #[test]
    fn a_repeated_load_sends_nothing() {
        let mut ledger = ledger(&[("a", 2, 3), ("b", 1, 2)]);
        for number in [1, 3] {
            assert_eq!(ledger.offer(row(number, "a")), Offered::Skipped);
        }
        assert_eq!(ledger.offer(row(2, "b")), Offered::Skipped);
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_load_goes_on_behind_the_last_row_of_the_file() {
        let mut ledger = ledger(&[("a", 5, 3)]);
        assert_eq!(ledger.offer(row(3, "a")), Offered::Skipped);
        assert_eq!(sent(ledger.offer(row(4, "a"))), (4, Expect::Version(5)));
    }

    #[test]
    fn a_stream_in_doubt_is_read_once_all_its_receipts_are_there_and_nothing_is_sent_before() {
        let mut ledger = ledger(&[("a", 0, 0)]);
        for number in 1..=3 {
            sent(ledger.offer(row(number, "a")));
        }
        assert!(!ledger.resolve(&A, 1, Fate::Unknown), "two are still out");
        assert_eq!(ledger.offer(row(4, "a")), Offered::Waits);
        assert!(!ledger.resolve(&A, 2, Fate::Unknown));
        assert!(ledger.resolve(&A, 3, Fate::Unknown));
        assert!(!ledger.is_settled());
        // The first two had arrived.
        let (found, appends) = ledger.reread(&A, Tail { head: 2, last_row: 2 });
        assert_eq!(found, 2);
        assert_eq!(rows(&appends), [(3, Expect::Version(2)), (4, Expect::Version(3))]);
        assert!(!ledger.resolve(&A, 3, Fate::Stored));
        assert!(!ledger.resolve(&A, 4, Fate::Stored));
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_row_that_arrives_after_it_was_looked_for_is_not_stored_twice() {
        let mut ledger = ledger(&[("a", 0, 0)]);
        sent(ledger.offer(row(1, "a")));
        assert!(ledger.resolve(&A, 1, Fate::Unknown));
        let (found, appends) = ledger.reread(&A, Tail::default());
        assert_eq!((found, rows(&appends)), (0, vec![(1, Expect::Absent)]));
        // Now the first attempt arrives: the second finds the stream at version 1, and is rejected.
        assert!(ledger.resolve(&A, 1, Fate::NotStored));
        let (found, appends) = ledger.reread(&A, Tail { head: 1, last_row: 1 });
        assert_eq!((found, appends.len()), (1, 0));
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_receipt_behind_one_in_doubt_still_counts() {
        let mut ledger = ledger(&[("a", 0, 0)]);
        sent(ledger.offer(row(1, "a")));
        sent(ledger.offer(row(2, "a")));
        assert!(!ledger.resolve(&A, 1, Fate::Unknown));
        assert!(ledger.resolve(&A, 2, Fate::Stored));
        let (found, appends) = ledger.reread(&A, Tail { head: 2, last_row: 2 });
        assert_eq!((found, appends.len()), (1, 0));
    }

    #[test]
    fn the_position_is_the_last_row_before_which_none_is_open() {
        let mut ledger = ledger(&[("a", 0, 0), ("b", 0, 0)]);
        sent(ledger.offer(row(1, "a")));
        sent(ledger.offer(row(2, "b")));
        sent(ledger.offer(row(3, "a")));
        assert_eq!(ledger.position(3), 0);
        ledger.resolve(&A, 1, Fate::Stored);
        assert_eq!(ledger.position(3), 1);
        ledger.resolve(&Bytes::from("b"), 2, Fate::Stored);
        ledger.resolve(&A, 3, Fate::Stored);
        assert_eq!(ledger.position(3), 3);
    }
}
