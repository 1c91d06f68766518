//! Snapshots between nodes: where a follower, or a new leader, needs what the log of who has it holds no more.
//!
//! What is to be done the replica says ([`crate::replica`]); here it is done, away from the sequencers' threads. One thread
//! gives ([`giver`]), another takes ([`taker`]), so that a node that is given nothing in time still gives. On the disk:
//!
//! ```text
//! snapshots/given-<shard>-<LSN>/   RocksDB's files of one moment, linked, while others fetch them
//! snapshots/taken-<shard>/         the parts of a snapshot that are here already, at most of one for each shard
//! ```

mod giver;
mod kept;
pub(super) mod opening;
mod pace;
mod staged;
mod taker;

pub(super) use giver::{Ask, GiveOrder, GiverThread};
pub use opening::HalfReplaced;
pub(super) use taker::{TakeOrder, TakerThread, Taking};

use self::staged::Staged;
use super::completion::Completion;
use super::shard::{Event, Shard};
use super::unapplied::Unapplied;
use crate::model::limits::PEER_READS_MAX;
use crate::model::{LogPosition, Lsn, NodeId, ShardId, SnapshotId};
use crate::replica::{Input, Output};
use crossbeam::channel::Sender;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Where all of it lies in a node's directory.
const DIRECTORY: &str = "snapshots";
/// After what could not be done now, for want of room or because a device refused, it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Parts that wait to be written: who takes a snapshot asks for one after the other.
const PARTS_WAITING_MAX: usize = 2;

/// Where the orders go.
#[derive(Debug, Clone)]
pub(super) struct SnapshotDesk {
    pub(super) give: Sender<GiveOrder>,
    pub(super) take: Sender<TakeOrder>,
}

/// What came of an order.
pub(super) enum Answer {
    /// For a peer, as long as this connection stands.
    Given { peer: NodeId, session: u64, input: Input },
    /// A part is wanted, or all are here.
    Taken(Input),
    /// The state is the snapshot's, durably.
    Replaced(SnapshotId),
    /// The state is neither the old nor the new one, and can't be finished now.
    Failed(String),
}

/// What a node did with snapshots since it was opened; of each shard. Statistics: they order nothing.
#[derive(Debug, Default)]
pub(super) struct SnapshotCounters {
    pub(super) given: AtomicU64,
    pub(super) given_bytes: AtomicU64,
    pub(super) taken_bytes: AtomicU64,
    pub(super) damaged_parts: AtomicU64,
    pub(super) installed: AtomicU64,
}

impl SnapshotCounters {
    pub(super) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// Whether a shard's state is being replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Replacing {
    #[default]
    No,
    /// It will be, when what is being applied is.
    Waits(SnapshotId),
    UnderWay,
    /// It is; the log still has to begin where the state is.
    Done(LogPosition),
}

/// One part on its way to the disk.
pub(super) struct PartWaits(Arc<AtomicUsize>);

impl PartWaits {
    fn take(waiting: &Arc<AtomicUsize>) -> Option<Self> {
        // Only the shard's thread adds.
        (waiting.load(Ordering::SeqCst) < PARTS_WAITING_MAX).then(|| {
            waiting.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(waiting))
        })
    }
}

impl Drop for PartWaits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn all(directory: &Path) -> PathBuf {
    directory.join(DIRECTORY)
}

/// The snapshot of which a former life left parts, if they may be of use.
pub(super) fn left_staged(directory: &Path, shard: ShardId) -> Option<SnapshotId> {
    // What can't be read is looked at when one is offered.
    Staged::offered(&taken(directory, shard)).unwrap_or_default()
}

fn taken(directory: &Path, shard: ShardId) -> PathBuf {
    all(directory).join(format!("taken-{shard}"))
}

impl Shard {
    /// What the replica wants of a snapshot.
    pub(super) fn do_for_a_snapshot(&mut self, asked: Output) {
        match asked {
            Output::TakeSnapshot { peer, epoch } => {
                if let Some(ask) = self.ask_of(peer) {
                    self.give(GiveOrder::Take { ask, epoch });
                }
            }
            Output::ReadSnapshot { peer, epoch, snapshot, index } => {
                self.give_part(peer, |ask| GiveOrder::Read { ask, epoch, snapshot, index });
            }
            Output::StageSnapshot { snapshot } => {
                self.state.staged = Some(snapshot);
                let taking = self.taking();
                self.take(TakeOrder::Stage { taking, snapshot });
            }
            Output::StageChunk { snapshot, index, bytes } => match PartWaits::take(&self.state.parts_waiting) {
                Some(waits) => {
                    let taking = self.taking();
                    self.take(TakeOrder::Part { taking, snapshot, index, bytes, waits });
                }
                None => {
                    tracing::warn!(node = %self.id, index, "a part of a snapshot comes that nobody asked for: it is left out")
                }
            },
            Output::InstallSnapshot { snapshot } => {
                self.state.replacing = Replacing::Waits(snapshot);
                self.replace_when_idle();
            }
            _ => {}
        }
    }

    fn ask_of(&self, peer: NodeId) -> Option<Ask> {
        let found = self.state.peers.get(&peer)?;
        let (session, counters, here) =
            (found.link.session(), Arc::clone(&self.snapshots), Arc::downgrade(&found.here));
        Some(Ask { shard: self.shard, events: self.events.clone(), counters, peer, session, here })
    }

    /// A part; so many are read for a peer at a time. (Of what it wants taken the last order counts, whenever that is done.)
    fn give_part(&mut self, peer: NodeId, order: impl FnOnce(Ask) -> GiveOrder) {
        let Some(ask) = self.ask_of(peer) else { return };
        let Some(found) = self.state.peers.get_mut(&peer) else { return };
        if found.parts >= PEER_READS_MAX {
            self.disconnect(peer, "it asks for more parts of a snapshot than it waits for");
            return;
        }
        found.parts += 1;
        self.give(order(ask));
    }

    fn give(&self, order: GiveOrder) {
        if self.desk.give.send(order).is_err() {
            tracing::error!(node = %self.id, "the thread that gives snapshots has ended");
        }
    }

    fn taking(&self) -> Taking {
        Taking {
            node: self.id,
            shard: self.shard,
            log: self.log,
            events: self.events.clone(),
            stage: Arc::clone(&self.stage),
            positions: Arc::clone(&self.positions),
            counters: Arc::clone(&self.snapshots),
        }
    }

    fn take(&self, order: TakeOrder) {
        if self.desk.take.send(order).is_err() {
            tracing::error!(node = %self.id, "the thread that takes snapshots has ended");
        }
    }

    /// What is staged of a snapshot is of no use, once all that is in it was applied: another leader had it in its log.
    pub(super) fn forget_staged(&mut self, applied: Lsn) {
        if self.replica.takes_a_snapshot() {
            return; // That waits for an answer. What is applied next is looked at again.
        }
        if let Some(snapshot) = self.state.staged.take_if(|staged| staged.at.lsn <= applied) {
            let taking = self.taking();
            self.take(TakeOrder::Forget { taking, snapshot });
        }
    }

    /// The state is replaced while nobody applies to it.
    pub(super) fn replace_when_idle(&mut self) {
        let Replacing::Waits(snapshot) = self.state.replacing else { return };
        if !self.stops_applying() {
            return;
        }
        self.state.replacing = Replacing::UnderWay;
        self.start_in_state.begin_replacing();
        let taking = self.taking();
        self.take(TakeOrder::Replace { taking, snapshot });
    }

    /// Whether something may be applied. The state's position counts only when the log has it, too: before, what is committed and
    /// durable says nothing of it.
    pub(super) fn may_apply(&mut self) -> bool {
        match self.state.replacing {
            Replacing::No => true,
            Replacing::Done(at) if self.replica.applicable() >= at.lsn => {
                self.state.replacing = Replacing::No;
                self.applied = at;
                self.state.unapplied.forget(at.lsn);
                self.positions.set_applied(at.lsn);
                self.positions.end_replacing();
                true
            }
            _ => false,
        }
    }

    pub(super) fn snapshot_answered(&mut self, answer: Answer) {
        match answer {
            Answer::Given { peer, session, input } => {
                let found = self.state.peers.get_mut(&peer).filter(|found| found.link.session() == session);
                let Some(found) = found else { return };
                found.parts -= usize::from(matches!(input, Input::SnapshotRead { .. }));
                self.step(input);
            }
            Answer::Taken(input) => self.step(input),
            Answer::Replaced(snapshot) => {
                self.start_in_state.end_replacing();
                self.state.staged = None;
                self.state.replacing = Replacing::Done(snapshot.at);
                self.step(Input::SnapshotInstalled(snapshot));
            }
            Answer::Failed(reason) => self.fail(&reason),
        }
    }
}

/// The log begins elsewhere: what is in here follows nothing any more.
pub(super) fn clear(unapplied: &mut Unapplied) {
    Completion::unknown_all(unapplied.take_all());
}

pub(super) fn answer(events: &super::Inbox, answer: Answer) {
    events.send(Event::Snapshot(answer));
}
