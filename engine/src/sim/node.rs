//! One simulated node: a virtual disk that survives it, and the real log, replica, sequencer and applier.

use super::checker::Violation;
use super::event::Event;
use super::patience::Waits;
use crate::model::{LogId, LogPosition, Lsn, NodeId, ReplicationStream, ShardDescriptor};
use crate::pipeline::Sequencer;
use crate::replica::{LogView, Promise, Replica, Ticket};
use crate::state::{Applier, MemStore};
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use towline_net::{Connection, StreamId};
use towline_wal::vdisk::VirtualDisk;
use towline_wal::{Batch, Epoch, HardStateKind, LogCore, OpenError, Options};

/// What a node is, running or not.
#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) id: NodeId,
    /// Rises with each start.
    pub(super) life: u64,
    pub(super) disk: VirtualDisk,
    /// The state's store; it goes back to its last flush when the power fails.
    pub(super) store: MemStore,
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
}

/// What lives in memory only.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) log: LogCore,
    pub(super) replica: Replica,
    pub(super) sequencer: Sequencer<u64>,
    pub(super) applier: Applier<MemStore>,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// Which replica write each submission to the log was.
    pub(super) tickets: BTreeMap<towline_wal::Ticket, Ticket>,
    /// Sealed writes that are not answered: epoch, first LSN, numbers.
    pub(super) unanswered: VecDeque<(Epoch, Lsn, Vec<u64>)>,
    /// Up to here the checker has seen this life's commits.
    pub(super) checked: Lsn,
    pub(super) applying: bool,
    /// When timers are looked at next.
    pub(super) ticking: Option<Duration>,
    /// The last epoch in which the replica said that it leads no more for want of a majority.
    pub(super) stepped_down: Option<Epoch>,
    pub(super) waits: Waits,
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
}

impl SimNode {
    pub(super) fn new(id: NodeId, quorum_bound: Duration) -> Self {
        Self {
            id,
            life: 0,
            disk: VirtualDisk::with_seed(id.get()),
            store: MemStore::new(),
            running: None,
            before: None,
            writes: 0,
            slowness: 1,
            paused: false,
            put_off: Vec::new(),
            quorum_bound,
        }
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
        if !report.damaged.is_empty() {
            return Err(Violation::new("I8", format!("node {}: an honest disk is damaged: {report:?}", self.id)));
        }
        let promise = match core.hard_state(log, HardStateKind::Promise) {
            Some(bytes) => Promise::decode(&bytes).map_err(|e| failed("promise", &e))?,
            None => Promise::NONE,
        };
        if let Some(before) = &self.before {
            core.load_index(&mut self.disk, log, before.durable_end(log).lsn);
            self.compare(before, &core, log)?;
        }
        let applier =
            Applier::open(std::mem::take(&mut self.store), shard.clone(), log).map_err(|e| failed("state", &e))?;
        let applied = applier.applied().lsn;
        let end = core.end(log).lsn;
        if applied > end {
            let what = format!("node {}: the state holds LSN {applied}, the log ends at {end}", self.id);
            return Err(Violation::new("I1", what));
        }
        let view = ShardLog::new(&mut core, &mut self.disk, log);
        let replica = Replica::open(self.id, log, promise, applied, &view).with_quorum_bound(self.quorum_bound);
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
            ticking: None,
            stepped_down: None,
            waits: Waits::default(),
        });
        Ok(true)
    }

    /// I1 at one node: what the log called durable before is in the log that was opened.
    fn compare(&self, before: &LogCore, now: &LogCore, log: LogId) -> Result<(), Violation> {
        let durable = before.durable_end(log);
        let found = if now.end(log) == durable { Some(durable) } else { now.position_at(log, durable.lsn) };
        // A truncation that was accepted and not durable may or may not have happened: then the log goes on with
        // what it held before, or ends where the truncation put it.
        if found == Some(durable) || before.end(log).lsn < durable.lsn {
            return Ok(());
        }
        let what = format!("node {} had {durable:?} durable and opens with {:?}", self.id, now.end(log));
        Err(Violation::new("I1", what))
    }

    /// Reads whole batches behind a position from the log's files.
    pub(super) fn read(&mut self, log: LogId, after: Lsn, bytes_max: usize) -> Result<Vec<Batch>, Violation> {
        let Some(running) = &mut self.running else { return Ok(Vec::new()) };
        let failed =
            |error: &dyn std::fmt::Display| Violation::new("I8", format!("node {} can't read: {error}", self.id));
        running.log.load_index(&mut self.disk, log, after.next());
        let extents = running.log.plan_read(log, after.next(), bytes_max).map_err(|e| failed(&e))?;
        let mut batches = Vec::new();
        for extent in extents {
            batches.push(extent.read(&mut self.disk).map_err(|e| failed(&e))?);
        }
        Ok(batches)
    }
}
