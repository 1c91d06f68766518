//! [`Ledger`]: which rows are in their streams, which are on their way, and which must be looked for. Decisions only.
//!
//! A stream has one write in flight at a time. Rows that come meanwhile go together in the next one: a write takes
//! effect as a whole or not at all. Were several in flight, one could be rejected because somebody else wrote to the
//! stream, and the next accepted at that very version: a row would be left out, and its successor would hide it.

use super::tail::Tail;
use crate::csv_rows::Row;
use bytes::Bytes;
use std::collections::BTreeMap;
use towline::model::Expect;

/// Rows of one write, and their bytes, at the most: a small part of what a write may have.
const WRITE_ROWS_MAX: usize = 256;
const WRITE_BYTES_MAX: usize = 1024 * 1024;

/// Rows to append to a stream, all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) stream: Bytes,
    /// The stream's version before the first of them; each further one is one more. 0: it has no event.
    pub(crate) version: u64,
    /// Number and bytes of each row: one at the least.
    pub(crate) rows: Vec<(u64, Bytes)>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its rows are in their stream.
    Stored,
    /// They may be, or come to be.
    Unknown,
    /// They are not, and won't: the server did not take it, or the stream had another version.
    NotStored,
}

/// What to do next about a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing, for now.
    Nothing,
    /// Send this.
    Send(Write),
    /// Read how it stands.
    Read,
}

/// The streams of a load.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    streams: BTreeMap<Bytes, Stream>,
    unsettled: usize,
}

#[derive(Debug)]
struct Stream {
    /// Its version, as far as is known.
    head: u64,
    /// The last row known to be in it.
    through: u64,
    /// The rows of the write in flight, or in doubt while the stream is read; empty otherwise.
    sent: Vec<(u64, Bytes)>,
    /// Rows that go after it.
    waiting: Vec<(u64, Bytes)>,
}

impl Write {
    /// What the stream's version must be for the row at this place.
    pub(crate) fn expect(&self, place: usize) -> Expect {
        match self.version + place as u64 {
            0 => Expect::Absent,
            version => Expect::Version(version),
        }
    }
}

impl Ledger {
    /// Notes how a stream stands before the load.
    pub(crate) fn begin(&mut self, stream: Bytes, tail: Tail) {
        let stands = Stream { head: tail.head, through: tail.last_row, sent: Vec::new(), waiting: Vec::new() };
        self.streams.insert(stream, stands);
    }

    /// Takes the next row of the file. None: it is in its stream (or of a stream that was not begun).
    pub(crate) fn offer(&mut self, row: Row) -> Option<Next> {
        let stream = self.streams.get_mut(&row.key).filter(|stream| row.number > stream.through)?;
        stream.waiting.push((row.number, row.raw));
        self.unsettled += 1;
        Some(if stream.sent.is_empty() { stream.write(&row.key) } else { Next::Nothing })
    }

    /// Notes what became of the write in flight of a stream: how many rows were stored by it, and what is next.
    pub(crate) fn resolve(&mut self, key: &Bytes, fate: Fate) -> (u64, Next) {
        let Some(stream) = self.streams.get_mut(key) else { return (0, Next::Nothing) };
        if fate != Fate::Stored {
            return (0, Next::Read);
        }
        let stored = std::mem::take(&mut stream.sent);
        stream.head += stored.len() as u64;
        stream.through = stored.last().map_or(stream.through, |(row, _)| *row);
        self.unsettled -= stored.len();
        (stored.len() as u64, stream.write(key))
    }

    /// Notes what a stream was read to hold: how many rows not known to be in it are, and what is next.
    pub(crate) fn reread(&mut self, key: &Bytes, tail: Tail) -> (u64, Next) {
        let Some(stream) = self.streams.get_mut(key) else { return (0, Next::Nothing) };
        stream.head = tail.head;
        stream.through = stream.through.max(tail.last_row);
        let mut rows = std::mem::take(&mut stream.sent);
        rows.append(&mut stream.waiting);
        let before = rows.len();
        rows.retain(|(row, _)| *row > stream.through);
        let found = before - rows.len();
        stream.waiting = rows;
        self.unsettled -= found;
        (found as u64, stream.write(key))
    }

    /// Rows taken and not known to be in their streams: what bounds memory.
    pub(crate) const fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// The last row of which all rows before it are in their streams, given the last row read.
    pub(crate) fn position(&self, last_read: u64) -> u64 {
        let first = |stream: &Stream| stream.sent.first().or_else(|| stream.waiting.first()).map(|(row, _)| *row);
        self.streams.values().filter_map(first).min().map_or(last_read, |row| row - 1)
    }
}

impl Stream {
    /// The next write, of rows that wait.
    fn write(&mut self, key: &Bytes) -> Next {
        let mut bytes = 0_usize;
        let fits = |(_, raw): &&(u64, Bytes)| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(raw.len());
            is_first || bytes <= WRITE_BYTES_MAX
        };
        let count = self.waiting.iter().take(WRITE_ROWS_MAX).take_while(fits).count();
        if count == 0 {
            return Next::Nothing;
        }
        self.sent = self.waiting.drain(..count).collect();
        Next::Send(Write { stream: key.clone(), version: self.head, rows: self.sent.clone() })
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
            ledger.begin(Bytes::from(*key), Tail { head: *head, last_row: *last_row, skipped: 0 });
        }
        ledger
    }

    /// The version expected and the rows of what is to be sent.
    fn sent(next: Next) -> (u64, Vec<u64>) {
        match next {
            Next::Send(write) => (write.version, write.rows.iter().map(|(row, _)| *row).collect()),
            other => panic!("{other:?}"),
        }
    }

    const A: Bytes = Bytes::from_static(b"a");

    #[test]
    fn one_write_of_a_stream_is_in_flight_and_what_comes_meanwhile_goes_together() {
        let mut ledger = ledger(&[("a", 0, 0), ("b", 7, 0)]);
        assert_eq!(sent(ledger.offer(row(1, "a")).unwrap()), (0, vec![1]));
        assert_eq!(sent(ledger.offer(row(2, "b")).unwrap()), (7, vec![2]), "after what others wrote");
        assert_eq!(ledger.offer(row(3, "a")), Some(Next::Nothing));
        assert_eq!(ledger.offer(row(4, "a")), Some(Next::Nothing));
        assert_eq!(ledger.unsettled(), 4);
        let (stored, next) = ledger.resolve(&A, Fate::Stored);
        assert_eq!((stored, sent(next)), (1, (1, vec![3, 4])));
        assert_eq!(ledger.resolve(&A, Fate::Stored), (2, Next::Nothing));
        assert_eq!(sent(ledger.offer(row(5, "a")).unwrap()), (3, vec![5]));
    }

    #[test]
    fn the_rows_of_a_write_expect_one_version_after_the_other() {
        let write = Write { stream: A, version: 0, rows: vec![] };
        assert_eq!([write.expect(0), write.expect(1)], [Expect::Absent, Expect::Version(1)]);
    }

    #[test]
    fn a_repeated_load_sends_nothing() {
        let mut ledger = ledger(&[("a", 2, 3), ("b", 1, 2)]);
        for next in [ledger.offer(row(1, "a")), ledger.offer(row(3, "a")), ledger.offer(row(2, "b"))] {
            assert_eq!(next, None);
        }
        assert_eq!(ledger.unsettled(), 0);
    }

    #[test]
    fn a_load_goes_on_behind_the_last_row_of_the_file() {
        let mut ledger = ledger(&[("a", 5, 3)]);
        assert_eq!(ledger.offer(row(3, "a")), None);
        assert_eq!(sent(ledger.offer(row(4, "a")).unwrap()), (5, vec![4]));
    }

    #[test]
    fn a_stream_in_doubt_is_read_and_nothing_is_sent_before() {
        let mut ledger = ledger(&[("a", 0, 0)]);
        assert_eq!(sent(ledger.offer(row(1, "a")).unwrap()), (0, vec![1]));
        assert_eq!(ledger.resolve(&A, Fate::Unknown), (0, Next::Read));
        assert_eq!(ledger.offer(row(2, "a")), Some(Next::Nothing));
        // It had arrived.
        let (found, next) = ledger.reread(&A, Tail { head: 1, last_row: 1, skipped: 0 });
        assert_eq!((found, sent(next)), (1, (1, vec![2])));
    }

    #[test]
    fn a_write_that_arrives_after_it_was_looked_for_is_not_stored_twice() {
        let mut ledger = ledger(&[("a", 0, 0)]);
        sent(ledger.offer(row(1, "a")).unwrap());
        ledger.resolve(&A, Fate::Unknown);
        ledger.offer(row(2, "a"));
        let (found, next) = ledger.reread(&A, Tail::default());
        assert_eq!((found, sent(next)), (0, (0, vec![1, 2])));
        // Now the first attempt arrives: the second finds the stream at version 1, and is rejected.
        assert_eq!(ledger.resolve(&A, Fate::NotStored), (0, Next::Read));
        let (found, next) = ledger.reread(&A, Tail { head: 1, last_row: 1, skipped: 0 });
        assert_eq!((found, sent(next)), (1, (1, vec![2])));
    }

    #[test]
    fn rows_that_wait_and_that_another_load_has_stored_are_not_sent() {
        let mut ledger = ledger(&[("a", 0, 0)]);
        for number in 1..=4 {
            ledger.offer(row(number, "a"));
        }
        ledger.resolve(&A, Fate::NotStored);
        let (found, next) = ledger.reread(&A, Tail { head: 3, last_row: 3, skipped: 0 });
        assert_eq!((found, sent(next)), (3, (3, vec![4])));
        assert_eq!(ledger.unsettled(), 1);
    }

    #[test]
    fn a_write_is_bounded_in_rows_and_bytes() {
        let mut ledger = ledger(&[("a", 0, 0)]);
        for number in 1..=1000 {
            ledger.offer(row(number, "a"));
        }
        let (_, next) = ledger.resolve(&A, Fate::Stored);
        assert_eq!(sent(next).1.len(), WRITE_ROWS_MAX);
        let large = |number| Row { raw: vec![b'x'; WRITE_BYTES_MAX * 2 / 3].into(), ..row(number, "b") };
        ledger.begin("b".into(), Tail::default());
        for number in 1..=3 {
            ledger.offer(large(number));
        }
        let (_, next) = ledger.resolve(&"b".into(), Fate::Stored);
        assert_eq!(sent(next).1, [2], "two of them are too much");
    }

    #[test]
    fn the_position_is_the_last_row_before_which_none_is_open() {
        let mut ledger = ledger(&[("a", 0, 0), ("b", 0, 0)]);
        for (number, key) in [(1, "a"), (2, "b"), (3, "a")] {
            ledger.offer(row(number, key));
        }
        assert_eq!(ledger.position(3), 0);
        ledger.resolve(&A, Fate::Stored);
        assert_eq!(ledger.position(3), 1);
        ledger.resolve(&"b".into(), Fate::Stored);
        assert_eq!(ledger.position(3), 2);
        ledger.resolve(&A, Fate::Stored);
        assert_eq!(ledger.position(3), 3);
    }
}
