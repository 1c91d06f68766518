use super::super::Inbox;
use super::super::inbox::Events;
use super::*;
use crate::model::{Epoch, Lsn, ShardId};
use crate::pipeline::{Ready, SubmissionQueue};
use towline_wal::io::IoFailure;
use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Entry};

const MIB: u64 = 1 << 20;

/// How much is read in this time in reads of a mebibyte that take so long, while so many bytes and groups are written a second.
fn read(bytes_per_second: u64, lasts: Duration, takes: Duration, written: (u64, u64)) -> u64 {
    let begin = now();
    let (mut load, mut pace) = (Load::new(begin), Pace { free: begin });
    let (mut at, mut read) = (begin, 0);
    while at < begin + lasts {
        at = at.max(pace.free);
        let seconds = at.saturating_duration_since(begin).as_secs_f64();
        load.look(at, || ((seconds * written.0 as f64) as u64, (seconds * written.1 as f64) as u64));
        pace.took(MIB as usize, at, load.bound(bytes_per_second));
        at += takes;
        read += MIB;
    }
    read
}

#[test]
fn who_is_behind_has_all_there_is_while_nothing_is_written_and_its_bound_while_something_is() {
    let (minute, quick) = (Duration::from_secs(60), Duration::from_millis(1));
    let alone = read(16 * MIB, minute, quick, (1000, 1));
    assert!(alone > 58_000 * MIB, "{alone}");
    let beside = read(16 * MIB, minute, quick, (5 * MIB, 100));
    assert!((950 * MIB..970 * MIB).contains(&beside), "{beside}");
    // However slow those who write have become.
    let small = read(16 * MIB, minute, quick, (10_000, 60));
    assert!((950 * MIB..970 * MIB).contains(&small), "{small}");
}

/// Otherwise it would never come near, and the log would be kept for it in vain. What a read takes is a part of its time.
#[test]
fn twice_as_much_is_read_as_is_written_however_low_the_bound() {
    let hour = Duration::from_secs(3600);
    let come = read(1000, hour, Duration::from_millis(20), (20 * MIB, 500));
    assert!(come > 3600 * 39 * MIB, "{come}");
}

#[test]
fn a_pause_is_not_made_up_for_and_nobody_waits_for_more_than_a_second() {
    let begin = now();
    let mut pace = Pace { free: begin };
    pace.took(MIB as usize, begin + Duration::from_secs(60), Some(4 * MIB));
    assert_eq!(pace.free, begin + Duration::from_millis(60_250));
    pace.took(MIB as usize, begin, Some(1));
    assert_eq!(pace.free, begin + Duration::from_millis(61_250));
}

#[test]
fn what_was_written_long_ago_says_nothing_about_now() {
    let begin = now();
    let mut load = Load::new(begin);
    assert_eq!(load.bound(7), Some(7), "not known yet");
    let written = || (1 << 40, 1 << 20);
    load.look(begin + Duration::from_secs(3600), written);
    assert_eq!(load.bound(7), Some(7));
    load.look(begin + Duration::from_millis(3_600_500), written);
    assert_eq!(load.bound(7), None, "nothing since");
}

/// A log with one batch, and where answers arrive.
struct Reader {
    thread: ReaderThread,
    orders: crossbeam::channel::Sender<ReadOrder>,
    inbox: Inbox,
    events: Events,
    _directory: tempfile::TempDir,
}

const LOG: LogId = LogId::new(1);

impl Reader {
    fn new(catch_up_bytes_per_second: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (wal, _) = Wal::open(directory.path(), towline_wal::Options::default()).unwrap();
        let block = Block::encode(vec![7; 1000].into(), 1, Compression::Never);
        let builder = BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), LogPosition::origin(LOG), 0);
        wal.submit(vec![Entry::Batch(builder.block(block).seal().unwrap())]).unwrap().wait().unwrap();
        let bell = Ready::new().bell(ShardId::new(1));
        let queue = Arc::new(SubmissionQueue::new(8, 1 << 20, Arc::clone(&bell)));
        let (inbox, events) = Inbox::new(queue, bell);
        let (orders, taken) = crossbeam::channel::unbounded();
        let thread = ReaderThread::new(Arc::new(wal), taken, catch_up_bytes_per_second);
        Self { thread, orders, inbox, events, _directory: directory }
    }

    fn task(&self, (log, peer, session): (LogId, u64, u64), may_wait: bool) -> ReadTask {
        let (peer, events, after) = (NodeId::new(peer), self.inbox.clone(), LogPosition::origin(LOG));
        let purpose = ReadPurpose::CatchUp;
        ReadTask { log, events, peer, session, purpose, after, bytes_max: 1 << 20, may_wait }
    }

    fn order(&self, of: (LogId, u64, u64), may_wait: bool) {
        self.orders.send(ReadOrder::Read(self.task(of, may_wait))).unwrap();
    }

    /// What comes of all that was ordered: of each answer the session, and how many batches, or none where it was not read.
    fn answers(&mut self) -> Vec<(u64, Option<usize>)> {
        self.orders.send(ReadOrder::End).unwrap();
        self.thread.serve();
        let answers = std::iter::from_fn(|| self.events.next()).map(|event| match event {
            Event::LogRead { session, batches, .. } => (session, Some(batches.len())),
            Event::LogUnread { session, .. } => (session, None),
            _ => unreachable!("nothing else is sent"),
        });
        answers.collect()
    }

    /// These have had so much that their next turn is long after this test.
    fn have_waited(&mut self, peers: &[u64]) {
        for peer in peers {
            self.thread.behind.entry(NodeId::new(*peer)).or_default().pace.free = now() + Duration::from_secs(3600);
        }
    }
}

/// Nor does it hold up the end of the node.
#[test]
fn who_waits_for_its_turn_holds_up_neither_other_nodes_nor_what_others_wait_for() {
    let mut reader = Reader::new(1);
    reader.have_waited(&[2]);
    // However long this takes: how much is written is not known.
    reader.thread.load.looked = now() + Duration::from_secs(3600);
    let before = now();
    reader.order((LOG, 2, 1), true);
    reader.order((LOG, 3, 2), true);
    // Not even one that was ordered before for the same follower: that one is not wanted any more.
    reader.order((LOG, 2, 3), false);
    assert_eq!(reader.answers(), [(2, Some(1)), (1, None), (3, Some(1))]);
    // What was read for the other one counts.
    assert!(reader.thread.behind[&NodeId::new(3)].pace.free >= before + PAUSE_MAX);
    let mut unbounded = Reader::new(0);
    unbounded.order((LOG, 3, 1), true);
    assert_eq!(unbounded.answers(), [(1, Some(1))]);
    assert!(unbounded.thread.behind[&NodeId::new(3)].pace.free <= now(), "without a bound nobody waits");
}

/// A connection that came and went left a read each time, and those that were wanted waited behind them.
#[test]
fn of_one_shard_and_node_the_last_read_alone_waits_and_the_shard_hears_of_the_others() {
    let mut reader = Reader::new(1);
    reader.have_waited(&[2]);
    (1..5).for_each(|session| reader.order((LOG, 2, session), true));
    reader.order((LogId::new(9), 2, 7), true);
    assert_eq!(reader.answers(), [(1, None), (2, None), (3, None)]);
    let waiting = &reader.thread.behind[&NodeId::new(2)].waiting;
    assert_eq!(waiting.iter().map(|task| task.session).collect::<Vec<_>>(), [4, 7]);
}

/// Writes need it now: it is read at once, and no read of it is left that nobody waits for.
#[test]
fn what_waits_is_read_at_once_when_writes_begin_to_need_it() {
    let mut reader = Reader::new(1);
    reader.have_waited(&[2, 3]);
    reader.order((LOG, 2, 1), true);
    reader.order((LogId::new(9), 2, 2), true);
    reader.order((LOG, 3, 3), true);
    reader.orders.send(ReadOrder::Hurry { log: LOG, peer: NodeId::new(2) }).unwrap();
    // There is nothing of it any more; and of another node nothing was.
    reader.orders.send(ReadOrder::Hurry { log: LOG, peer: NodeId::new(2) }).unwrap();
    reader.orders.send(ReadOrder::Hurry { log: LOG, peer: NodeId::new(4) }).unwrap();
    // Ordered anew, to be read at once.
    reader.order((LOG, 3, 4), false);
    assert_eq!(reader.answers(), [(1, Some(1)), (3, None), (4, Some(1))]);
    assert_eq!(reader.thread.behind[&NodeId::new(2)].waiting.len(), 1);
    assert_eq!(reader.thread.behind[&NodeId::new(3)].waiting.len(), 0);
}

/// With no descriptor left the answer was that there is nothing to read: the follower was not fed any more, as nobody asked again.
#[test]
fn what_the_system_refuses_to_read_is_read_again_later_and_what_is_damaged_is_told() {
    let mut reader = Reader::new(0);
    let no_descriptor = std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
    let refused = ReadError::Io(IoFailure::from_error(&no_descriptor, "open", "a segment"));
    let (begun, task) = (now(), reader.task((LOG, 2, 1), false));
    assert_eq!(reader.thread.answer(task, Err(refused)), 0);
    assert!(reader.events.next().is_none(), "nobody hears of it yet");
    let behind = reader.thread.behind.get_mut(&NodeId::new(2)).unwrap();
    assert!(behind.pace.free >= begun + PAUSE_MAX);
    behind.pace.free = begun;
    reader.thread.take_turn(NodeId::new(2));
    assert_eq!(reader.answers(), [(1, Some(1))]);

    let task = reader.task((LOG, 2, 2), false);
    let damaged =
        ReadError::Corrupt { log: LOG, first: Lsn::FIRST, last: Lsn::FIRST, file: "a segment".into(), offset: 0 };
    assert_eq!(reader.thread.answer(task, Err(damaged)), 0);
    assert!(matches!(reader.events.next(), Some(Event::DamageFound)));
    assert!(matches!(reader.events.next(), Some(Event::LogRead { batches, .. }) if batches.is_empty()));
}
