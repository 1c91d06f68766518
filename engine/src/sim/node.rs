//! One simulated node: a virtual disk that survives it, and the real log, replica, sequencer and applier.

use super::checker::Violation;
use super::event::Event;
use super::patience::Waits;
use super::rot::expected;
use super::state::SimStore;
use crate::model::{DirectoryId, LogId, LogPosition, Lsn, NodeId, ReplicationStream, ShardDescriptor, SnapshotId};
use crate::pipeline::Sequencer;
use crate::replica::{Freshness, InstallMark, LogView, Opening, Promise, Replica, Ticket};
use crate::state::{Applier, StagedSnapshot};
use bytes::Bytes;
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use towline_net::{Connection, StreamId};
use towline_wal::io::execute;
use towline_wal::vdisk::VirtualDisk;
use towline_wal::{Batch, Entry, Epoch, HardStateKind, LogCore, OpenError, Options, ReadError};

/// What a node is, running or not.
#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) id: NodeId,
    /// Rises with each start.
    pub(super) life: u64,
    pub(super) disk: VirtualDisk,
    /// How many disks it has had before, and up to where each held its log durably.
    pub(super) disks: u64,
    pub(super) lost: BTreeMap<DirectoryId, LostLog>,
    /// The state's store; it goes back to its last flush when the power fails.
    pub(super) store: SimStore,
    /// Up to here it survives that.
    pub(super) flushed_at: Option<LogPosition>,
    /// A snapshot that it is given, as far as it is here.
    pub(super) staging: Option<Staging>,
    pub(super) running: Option<Running>,
    /// The log as it was when the node last stopped: what it had called durable must be there again.
    pub(super) before: Option<LogCore>,
    /// Requests that its disk works on.
    pub(super) writes: u64,
    /// Syncs take this many times as long.
    pub(super) slowness: u64,
    /// Its process is stopped: it handles nothing, and knows nothing of it afterwards (P4).
    pub(super) paused: bool,
    /// What it will handle when it goes on, in order.
    pub(super) put_off: Vec<Event>,
    /// How long its replica leads without a majority.
    pub(super) quorum_bound: Duration,
    /// What of its log ever rotted on its disk.
    pub(super) rotten: Vec<(Lsn, Lsn)>,
}

/// Chunks beside the state.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) snapshot: StagedSnapshot,
    /// So many chunks survive if the power fails.
    pub(super) synced: usize,
}

/// What lives in memory only.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) log: LogCore,
    pub(super) replica: Replica,
    pub(super) sequencer: Sequencer<u64>,
    pub(super) applier: Applier<SimStore>,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// Which replica write each submission to the log was.
    pub(super) tickets: BTreeMap<towline_wal::Ticket, Ticket>,
    /// Sealed writes that are not answered: epoch, first LSN, numbers.
    pub(super) unanswered: VecDeque<(Epoch, Lsn, Vec<u64>)>,
    /// Up to here the checker has seen this life's commits.
    pub(super) checked: Lsn,
    pub(super) applying: bool,
    /// A flush is on its way, so that what nobody can mend can be given up.
    pub(super) giving_up: bool,
    /// When timers are looked at next.
    pub(super) ticking: Option<Duration>,
    /// The last epoch in which the replica said that it leads no more for want of a majority.
    pub(super) stepped_down: Option<Epoch>,
    pub(super) waits: Waits,
    /// How old its state is at the most.
    pub(super) freshness: Freshness,
    /// The last snapshot that it took for others.
    pub(super) taken: Option<(SnapshotId, Vec<Bytes>)>,
}

/// What a disk held when it was lost.
#[derive(Debug, Clone, Default)]
pub(super) struct LostLog {
    start: Lsn,
    end: Lsn,
    /// With their first LSNs, ascending.
    epochs: Vec<(Epoch, Lsn)>,
}

impl LostLog {
    /// Whether it had that, durably: an epoch has one history, so that its batch at that place is that one.
    pub(super) fn held(&self, position: LogPosition) -> bool {
        let epoch = self.epochs.iter().rev().find(|(_, first)| *first <= position.lsn).map(|(epoch, _)| *epoch);
        position.lsn <= self.start || (position.lsn <= self.end && epoch == Some(position.epoch))
    }
}

/// One end of a connection to another node.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) link: u64,
    pub(super) connection: Connection,
    pub(super) stream: Option<StreamId>,
    pub(super) replication: ReplicationStream,
    pub(super) up: bool,
}

/// The log of the one shard, as the replica looks at it: what the log has on its disk only is loaded from there.
pub(super) struct ShardLog<'a> {
    held: RefCell<(&'a mut LogCore, &'a mut VirtualDisk)>,
    log: LogId,
}

impl<'a> ShardLog<'a> {
    pub(super) const fn new(core: &'a mut LogCore, disk: &'a mut VirtualDisk, log: LogId) -> Self {
        Self { held: RefCell::new((core, disk)), log }
    }

    fn core(&self) -> RefMut<'_, LogCore> {
        RefMut::map(self.held.borrow_mut(), |(core, _)| &mut **core)
    }

    fn loaded(&self, lsn: Lsn) -> RefMut<'_, LogCore> {
        RefMut::map(self.held.borrow_mut(), |(core, disk)| {
            core.load_index(&mut **disk, self.log, lsn);
            &mut **core
        })
    }
}

impl LogView for ShardLog<'_> {
    fn start(&self) -> LogPosition {
        self.core().start(self.log)
    }

    fn end(&self) -> LogPosition {
        self.core().end(self.log)
    }

    fn durable_end(&self) -> LogPosition {
        self.core().durable_end(self.log)
    }

    fn position_at(&self, lsn: Lsn) -> Option<LogPosition> {
        self.loaded(lsn).position_at(self.log, lsn)
    }

    fn boundary_at_or_before(&self, lsn: Lsn) -> Option<LogPosition> {
        self.loaded(lsn).boundary_at_or_before(self.log, lsn)
    }

    fn epochs(&self) -> Vec<(Epoch, Lsn)> {
        self.core().epochs(self.log)
    }

    fn suspect(&self) -> Option<Lsn> {
        self.core().cuts().iter().filter(|cut| cut.log == self.log).map(|cut| cut.from).min()
    }

    fn damaged(&self) -> Vec<(Lsn, Lsn)> {
        self.core().damaged(self.log)
    }

    fn damage_end(&self, last: Lsn) -> Option<LogPosition> {
        self.core().damage_end(self.log, last)
    }

    fn mendable(&self, batches: &[Batch]) -> usize {
        let around = batches.iter().flat_map(|batch| [batch.first_lsn().prev(), batch.last_lsn()]);
        around.for_each(|lsn| drop(self.loaded(lsn)));
        self.core().mendable(batches)
    }
}

impl SimNode {
    pub(super) fn new(id: NodeId, quorum_bound: Duration) -> Self {
        Self {
            id,
            life: 0,
            disk: VirtualDisk::with_seed(id.get()),
            disks: 0,
            lost: BTreeMap::new(),
            store: SimStore::default(),
            flushed_at: None,
            staging: None,
            running: None,
            before: None,
            writes: 0,
            slowness: 1,
            paused: false,
            put_off: Vec::new(),
            quorum_bound,
            rotten: Vec::new(),
        }
    }

    /// What its disk calls itself: drawn when it was empty.
    pub(super) fn directory(&self) -> DirectoryId {
        let (mut bytes, node) = ([0; 16], u8::try_from(self.id.get()).unwrap_or(0));
        bytes[0] = node;
        bytes[8..].copy_from_slice(&self.disks.to_le_bytes());
        DirectoryId::new(bytes)
    }

    /// Up to where the state that is on the disk has the log.
    pub(super) fn flushed(&self) -> Lsn {
        self.flushed_at.map_or(Lsn::ZERO, |at| at.lsn)
    }

    /// Its disk is gone, and an empty one in its place (O6). It is not running.
    pub(super) fn empty_disk(&mut self, log: LogId) {
        let lost = self.before.as_ref().map(|core| LostLog {
            start: core.start(log).lsn,
            end: core.durable_end(log).lsn,
            epochs: core.epochs(log),
        });
        self.lost.insert(self.directory(), lost.unwrap_or_default());
        self.disks += 1;
        self.disk = VirtualDisk::with_seed(self.id.get() + 1000 * self.disks);
        (self.store, self.flushed_at) = (self.store.emptied(), None);
        (self.staging, self.before) = (None, None);
        self.rotten.clear();
    }

    /// Opens the node from its disk: recovery, the promise, the state. False if the disk failed meanwhile, which
    /// is a fault like any other: the process ends and tries again.
    pub(super) fn open(&mut self, options: &Options, shard: &ShardDescriptor, log: LogId) -> Result<bool, Violation> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Violation::new("I1", format!("node {} does not open: {what}: {error}", self.id))
        };
        let (mut core, report) = match LogCore::recover(&mut self.disk, options) {
            Ok(recovered) => recovered,
            Err(OpenError::Io(_)) => {
                self.disk.kill_process();
                return Ok(false);
            }
            Err(error) => return Err(failed("log", &error)),
        };
        for range in &report.damaged {
            expected(&self.rotten, self.id, range.first, range.last)?;
        }
        let promise = match core.hard_state(log, HardStateKind::Promise) {
            Some(bytes) => Promise::decode(&bytes).map_err(|e| failed("promise", &e))?,
            None => Promise::NONE,
        };
        let mark = match core.hard_state(log, HardStateKind::Snapshot) {
            Some(bytes) => InstallMark::decode(&bytes).map_err(|e| failed("mark", &e))?,
            None => InstallMark::NONE,
        };
        if let Some(before) = &self.before {
            core.load_index(&mut self.disk, log, before.durable_end(log).lsn);
            self.compare(before, &core, log)?;
        }
        let applier =
            Applier::open(std::mem::take(&mut self.store), shard.clone(), log).map_err(|e| failed("state", &e))?;
        let state = applier.applied();
        let applied = state.lsn;
        if !self.finish_installation(&mut core, mark, state, log)? {
            self.store = applier.into_store();
            self.disk.kill_process();
            return Ok(false);
        }
        self.flushed_at = Some(state);
        let directory = self.directory();
        let view = ShardLog::new(&mut core, &mut self.disk, log);
        let replica =
            Replica::open(self.id, log, promise, applied, &view).on_directory(directory).with_state_at(state, &view);
        let replica = replica.with_quorum_bound(self.quorum_bound);
        self.life += 1;
        self.writes = 0;
        self.running = Some(Running {
            log: core,
            replica,
            sequencer: Sequencer::new(),
            applier,
            peers: BTreeMap::new(),
            tickets: BTreeMap::new(),
            unanswered: VecDeque::new(),
            checked: applied,
            applying: false,
            giving_up: false,
            ticking: None,
            stepped_down: None,
            waits: Waits::default(),
            freshness: Freshness::default(),
            taken: None,
        });
        Ok(true)
    }

    /// Before anything is done with it: a node that was given a snapshot when it died has that to its end, or as it was before.
    /// False if the disk failed meanwhile.
    fn finish_installation(
        &mut self,
        core: &mut LogCore,
        mark: InstallMark,
        applied: LogPosition,
        log: LogId,
    ) -> Result<bool, Violation> {
        core.load_index(&mut self.disk, log, applied.lsn);
        let bounds = (core.start(log), core.end(log));
        let opening = mark.opening(applied, bounds, core.position_at(log, applied.lsn));
        let mut entries = match opening {
            Opening::Whole => return Ok(true),
            Opening::Forget => Vec::new(),
            Opening::Reset(to) => vec![Entry::Reset { log, to }],
            Opening::LogLost | Opening::StateLost => {
                let what = format!("node {} opens with its state at {}, log {bounds:?}", self.id, applied.lsn);
                return Err(Violation::new("I1", format!("{what}: {opening:?}")));
            }
        };
        let bytes = InstallMark::NONE.encode().map_err(|e| Violation::assertion(e.to_string()))?;
        entries.push(Entry::HardState { log, kind: HardStateKind::Snapshot, bytes });
        core.submit(entries).map_err(|e| Violation::assertion(format!("node {}: {e}", self.id)))?;
        while let Some(request) = core.poll_io() {
            let result = execute(&mut self.disk, &request);
            core.on_io(request.id, result);
        }
        Ok(std::iter::from_fn(|| core.poll_completion()).all(|done| done.result.is_ok()))
    }

    /// I1 at one node: what the log called durable before is in the log that was opened.
    fn compare(&self, before: &LogCore, now: &LogCore, log: LogId) -> Result<(), Violation> {
        let durable = before.durable_end(log);
        let found = if now.end(log) == durable { Some(durable) } else { now.position_at(log, durable.lsn) };
        // A truncation that was accepted and not durable may or may not have happened: then the log goes on with
        // what it held before, or ends where the truncation put it.
        // What was released, or given up for a snapshot, the state holds: that is looked at next.
        let has_it_elsewhere = now.start(log).lsn >= durable.lsn;
        if found == Some(durable) || before.end(log).lsn < durable.lsn || has_it_elsewhere {
            return Ok(());
        }
        let what = format!("node {} had {durable:?} durable and opens with {:?}", self.id, now.end(log));
        Err(Violation::new("I1", what))
    }

    /// Reads whole batches behind a position from the log's files, up to what can't be read; and whether that was not known.
    pub(super) fn read(&mut self, log: LogId, after: Lsn, bytes_max: usize) -> Result<(Vec<Batch>, bool), Violation> {
        let Some(running) = &mut self.running else { return Ok((Vec::new(), false)) };
        let failed =
            |error: &dyn std::fmt::Display| Violation::new("I8", format!("node {} can't read: {error}", self.id));
        running.log.load_index(&mut self.disk, log, after.next());
        let known = running.log.damaged(log);
        let extents = match running.log.plan_noting(log, after.next(), bytes_max) {
            Ok(extents) => extents,
            Err(ReadError::Corrupt { first, last, .. }) => {
                expected(&self.rotten, self.id, first, last)?;
                return Ok((Vec::new(), running.log.damaged(log) != known));
            }
            Err(error) => return Err(failed(&error)),
        };
        let mut batches = Vec::new();
        for extent in extents {
            match extent.read(&mut self.disk) {
                Ok(batch) => batches.push(batch),
                Err(ReadError::Corrupt { first, last, .. }) => {
                    expected(&self.rotten, self.id, first, last)?;
                    return Ok((batches, running.log.note_damaged(&extent)));
                }
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok((batches, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_wal::Chain;

    /// Otherwise an epoch that commits with one real holder too few is let pass, where a disk was lost that had a longer log of an
    /// older epoch.
    #[test]
    fn a_lost_disk_held_what_its_log_had_of_that_very_epoch_and_what_it_had_released() {
        let epoch = |term| Epoch { version: 1, term };
        let lost = LostLog {
            start: Lsn::new(3),
            end: Lsn::new(9),
            epochs: vec![(epoch(1), Lsn::new(4)), (epoch(2), Lsn::new(7))],
        };
        let held = |term, lsn| lost.held(LogPosition { epoch: epoch(term), lsn: Lsn::new(lsn), chain: Chain::new(0) });
        assert!(held(1, 2) && held(1, 6) && held(2, 9));
        assert!(!held(2, 6) && !held(3, 8) && !held(2, 10));
        assert!(!LostLog::default().held(LogPosition { epoch: epoch(1), lsn: Lsn::new(1), chain: Chain::new(0) }));
    }
}
