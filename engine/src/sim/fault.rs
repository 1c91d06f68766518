//! The kinds of fault that a seed draws from, and how often each was drawn.

use std::collections::BTreeMap;

/// One kind of fault.
///
/// ```
/// use towline::sim::{FaultKind, Totals};
/// let mut totals = Totals::default();
/// for kind in FaultKind::ALL.into_iter().filter(|kind| *kind != FaultKind::SyncError) {
///     totals.count(kind);
/// }
/// let missing: Vec<_> = totals.missing().into_iter().map(FaultKind::name).collect();
/// assert_eq!(missing, ["sync error"], "a run of many seeds that never draws a kind fails");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// Power is lost at a follower: its unsynced bytes are lost, torn, or survive, sector by sector (D1, D3, D4).
    PowerCutFollower,
    /// The same at the leader.
    PowerCutLeader,
    /// Power is lost everywhere at once (D2).
    PowerCutAll,
    /// A process dies, its disk's cache does not (P1).
    Kill,
    /// A connection breaks: what is in flight is lost (N1).
    ConnectionReset,
    /// Two nodes can't reach one another for a while (N4); half the time they are not told, and find out (N5).
    Partition,
    /// What one node says does not reach the other for a while, though it hears it (N3).
    OneWayCut,
    /// A connection stands, and nothing moves on it for a while.
    Stall,
    /// The leader reaches nobody for a while, and nobody it (N2): a minority's leader. Half the time it is told, and else finds out.
    LeaderIsolated,
    /// One byte changes in flight (N8).
    Corruption,
    /// A disk's syncs take very long for a while (D25).
    SlowDisk,
    /// A chunk of a snapshot changes where it is kept (D24).
    SnapshotRot,
    /// A bit of a batch at rest changes (D12, D13).
    BitFlip,
    /// A part of a batch that was written and synced is what was there before (D19).
    LostWrite,
    /// Bytes of something else lie over a part of a batch (D18).
    MisdirectedWrite,
    /// A segment's footer and the groups before it are zeroes: of what lay there nothing tells a name (D12).
    LostNames,
    /// A sync fails (D6): the log is poisoned, and the process reopens from disk.
    SyncError,
    /// A process handles nothing for a while, then goes on as if nothing had been (P4).
    Pause,
    /// The control plane moves the leadership to another voter: half the time once that has nearly all of the log, else at once.
    LeaderMove,
    /// The control plane adds a learner.
    LearnerAdded,
    /// The control plane makes a node a voter: one that learnt first, mostly.
    VoterAdded,
    /// The control plane takes a voter away.
    VoterRemoved,
    /// The control plane puts one node in the place of a voter: over a fourth, over two, or at once.
    VoterReplaced,
    /// The control plane replaces all voters, one after the other.
    AllReplaced,
    /// Two assignments in quick succession: the first is superseded before it is activated.
    Hasty,
    /// An assignment to a node that is dead or paused.
    AssignedToDead,
    /// An assignment at the very moment at which the leader dies.
    AssignedAtDeath,
    /// The answer to a report of activation is lost, or comes late; the leader asks again.
    AcceptanceLost,
    /// Nobody reaches the control plane for a while.
    MasterAway,
    /// A node comes back with an empty disk (O6).
    DiskEmptied,
}

impl FaultKind {
    /// All kinds, in the order of the enumeration.
    pub const ALL: [Self; 30] = [
        Self::PowerCutFollower,
        Self::PowerCutLeader,
        Self::PowerCutAll,
        Self::Kill,
        Self::ConnectionReset,
        Self::Partition,
        Self::OneWayCut,
        Self::Stall,
        Self::LeaderIsolated,
        Self::Corruption,
        Self::SlowDisk,
        Self::SnapshotRot,
        Self::BitFlip,
        Self::LostWrite,
        Self::MisdirectedWrite,
        Self::LostNames,
        Self::SyncError,
        Self::Pause,
        Self::LeaderMove,
        Self::LearnerAdded,
        Self::VoterAdded,
        Self::VoterRemoved,
        Self::VoterReplaced,
        Self::AllReplaced,
        Self::Hasty,
        Self::AssignedToDead,
        Self::AssignedAtDeath,
        Self::AcceptanceLost,
        Self::MasterAway,
        Self::DiskEmptied,
    ];

    /// How it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerCutFollower => "power cut, follower",
            Self::PowerCutLeader => "power cut, leader",
            Self::PowerCutAll => "power cut, all nodes",
            Self::Kill => "kill",
            Self::ConnectionReset => "connection reset",
            Self::Partition => "partition",
            Self::OneWayCut => "one-way cut",
            Self::Stall => "stalled connection",
            Self::LeaderIsolated => "leader isolated",
            Self::Corruption => "corruption in flight",
            Self::SlowDisk => "slow disk",
            Self::SnapshotRot => "staged snapshot damaged",
            Self::BitFlip => "bit flip at rest",
            Self::LostWrite => "lost write",
            Self::MisdirectedWrite => "misdirected write",
            Self::LostNames => "footer and groups lost",
            Self::SyncError => "sync error",
            Self::Pause => "process pause",
            Self::LeaderMove => "leader move",
            Self::LearnerAdded => "learner added",
            Self::VoterAdded => "voter added",
            Self::VoterRemoved => "voter removed",
            Self::VoterReplaced => "voter replaced",
            Self::AllReplaced => "all voters replaced",
            Self::Hasty => "two assignments at once",
            Self::AssignedToDead => "assigned to a dead node",
            Self::AssignedAtDeath => "assigned as leader dies",
            Self::AcceptanceLost => "acceptance lost or late",
            Self::MasterAway => "control plane away",
            Self::DiskEmptied => "disk emptied",
        }
    }
}

/// What a run did: added up over seeds, and printed.
///
/// ```
/// use towline::sim::{FaultKind, Totals};
/// let mut one = Totals { seeds: 1, ..Totals::default() };
/// one.count(FaultKind::Kill);
/// let mut other = Totals { seeds: 1, ..Totals::default() };
/// other.count(FaultKind::Kill);
/// other.add(&one);
/// assert_eq!((other.seeds, other.faults[&FaultKind::Kill]), (2, 2));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Seeds run.
    pub seeds: u64,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// Events handled.
    pub events: u64,
    /// Writes submitted.
    pub submitted: u64,
    /// Writes acknowledged as applied or rejected.
    pub acknowledged: u64,
    /// Writes whose outcome their client never learned.
    pub in_doubt: u64,
    /// Reads that were confirmed and served.
    pub reads: u64,
    /// Those of them that a node served which does not lead.
    pub follower_reads: u64,
    /// Reads that may show what is a little old, served at once.
    pub stale_reads: u64,
    /// Batches committed.
    pub batches: u64,
    /// Assignments made.
    pub assignments: u64,
    /// Epochs activated.
    pub epochs: u64,
    /// Epochs activated whose voters were not those of the one before.
    pub voter_changes: u64,
    /// Leaders that gave up for want of a majority.
    pub stepped_down: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Crashes that lost unsynced bytes.
    pub crashes_with_loss: u64,
    /// Restarts of the node that led.
    pub leader_restarts: u64,
    /// Suffixes that lost, truncated.
    pub truncations: u64,
    /// Leaders that fetched batches from a better log.
    pub adoptions: u64,
    /// Times that a node released a part of its log.
    pub releases: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Snapshots of which a part was there already.
    pub snapshots_resumed: u64,
    /// Batches that were put again where a log was damaged.
    pub mended: u64,
    /// How often each kind of fault was drawn.
    pub faults: BTreeMap<FaultKind, u64>,
}

impl Totals {
    /// Counts one fault.
    pub fn count(&mut self, kind: FaultKind) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// Adds another run's figures to these.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.simulated_ms += other.simulated_ms;
        self.events += other.events;
        self.submitted += other.submitted;
        self.acknowledged += other.acknowledged;
        self.in_doubt += other.in_doubt;
        self.reads += other.reads;
        self.follower_reads += other.follower_reads;
        self.stale_reads += other.stale_reads;
        self.batches += other.batches;
        self.assignments += other.assignments;
        self.epochs += other.epochs;
        self.voter_changes += other.voter_changes;
        self.stepped_down += other.stepped_down;
        self.crashes += other.crashes;
        self.crashes_with_loss += other.crashes_with_loss;
        self.leader_restarts += other.leader_restarts;
        self.truncations += other.truncations;
        self.adoptions += other.adoptions;
        self.releases += other.releases;
        self.snapshots += other.snapshots;
        self.snapshots_resumed += other.snapshots_resumed;
        self.mended += other.mended;
        for (kind, count) in &other.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
    }

    /// The kinds that were never drawn.
    #[must_use]
    pub fn missing(&self) -> Vec<FaultKind> {
        FaultKind::ALL.into_iter().filter(|kind| !self.faults.contains_key(kind)).collect()
    }
}
