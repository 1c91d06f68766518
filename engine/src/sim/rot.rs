//! What rots at rest: bytes of batches on a node's disk become others, and nobody is told (faults D12 to D19).
//!
//! Only what can come back: of each batch that rots anywhere, one node at least has a copy that never did, durably, and the batch
//! is committed, so that nobody ever cuts it off. Different batches rot on all nodes, and one on all nodes but one. Whoever has that
//! copy may release it later: its state has it, then; and its disk is not lost as long as it has the only one. Heads and directories
//! of groups rot only where no promise comes into doubt by it (the log's own tests have that), and with the footer that has the same
//! names: then nothing tells what lay there, neither a reader while the node runs nor an open.
//!
//! What is rotten is found by whoever reads it, by an open that scans its segment, and by a scrub some time later.

use super::checker::Violation;
use super::event::Event;
use super::fault::FaultKind;
use super::node::SimNode;
use super::world::World;
use crate::model::{LogId, LogPosition, Lsn, NodeId};
use crate::replica::Input;
use std::time::Duration;
use towline_wal::io::{Io, segment_name};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Extent, LogCore, Options, ReadError};

/// Bytes of a batch before its payload: what rots may be either.
const HEADER_BYTES: u64 = 96;
/// How often a place is looked for where names may be lost: of most segments they are in memory, and elsewhere a promise would be in doubt.
const NAMES_TRIES: u32 = 16;
/// Bytes at a segment's end that hold the end of its footer, without which that can't be read.
const FOOTER_BYTES: u64 = 4_096;

impl World {
    /// Something rots, on up to three nodes.
    pub(super) fn rot(&mut self, kind: FaultKind) {
        if self.healed {
            return;
        }
        let same = self.chance.per_mille(400);
        let mut place = None;
        for _ in 0..self.chance.between(1, 3) {
            let ids = self.ids.clone();
            let Some(id) = self.chance.pick(&ids) else { return };
            place = place.filter(|_| same).or_else(|| self.somewhere(id));
            let Some(lsn) = place else { continue };
            if let Some(extent) = self.may_rot(id, lsn) {
                self.rot_at(id, &extent, kind);
            }
        }
    }

    /// A committed LSN of the node's log: half the time one of the newest.
    fn somewhere(&mut self, id: NodeId) -> Option<Lsn> {
        let running = self.nodes[&id].running.as_ref()?;
        let last = running.replica.committed().min(running.log.durable_end(self.log).lsn).get();
        let first = if self.chance.per_mille(500) { last.saturating_sub(60) } else { 0 };
        (last > first).then(|| Lsn::new(self.chance.between(first + 1, last)))
    }

    /// The batch at `lsn` on that node, if it may rot there.
    fn may_rot(&mut self, id: NodeId, lsn: Lsn) -> Option<Extent> {
        let log = self.log;
        let node = self.node(id);
        let running = node.running.as_mut()?;
        // At rest: what is on its way to the disk yet may be torn, and is told by nothing from what was.
        let rests = running.replica.committed().min(running.log.durable_end(log).lsn);
        running.log.load_index(&mut node.disk, log, lsn);
        let extent = running.log.plan_read(log, lsn, 1).ok()?.first().copied()?;
        extent.read(&mut node.disk).ok()?;
        let (first, last) = (extent.first, extent.last);
        if last > rests || node.was_rotten(first, last) {
            return None;
        }
        self.is_elsewhere(id, first, end_of(&extent)).then_some(extent)
    }

    /// Whether another node has, durably, what lies from `first` up to this position, and never rotted there.
    fn is_elsewhere(&mut self, id: NodeId, first: Lsn, at: LogPosition) -> bool {
        let has =
            |world: &mut Self, other| !world.nodes[&other].was_rotten(first, at.lsn) && world.holds_durably(other, at);
        self.ids.clone().into_iter().any(|other| other != id && has(self, other))
    }

    /// Whether all that ever rotted would come back if this node's disk were lost now.
    pub(super) fn can_lose_disk_of(&mut self, id: NodeId) -> bool {
        self.rotted.clone().into_iter().all(|(first, at)| self.is_elsewhere(id, first, at))
    }

    fn rot_at(&mut self, id: NodeId, extent: &Extent, kind: FaultKind) {
        let (log, options) = (self.log, self.options.clone());
        let (at, len) = (extent.offset, u64::from(extent.len));
        let file = segment_name(extent.segment);
        let from = self.chance.below(len);
        let mut bytes = vec![0; usize::try_from((len - from).min(512)).unwrap_or(0)];
        let mut chance = self.chance.clone();
        let node = self.node(id);
        match kind {
            FaultKind::BitFlip => {
                bytes.truncate(1);
                let read = node.disk.read_at(&file, at + from, &mut bytes);
                bytes.iter_mut().for_each(|byte| *byte ^= 1 << chance.below(8));
                drop(read); // What can't be read is overwritten.
            }
            FaultKind::LostWrite => {} // What was there before: zeroes.
            _ => drop(node.disk.read_at(&file, at.saturating_sub(HEADER_BYTES + chance.below(4_096)), &mut bytes)),
        }
        self.chance = chance;
        let node = self.node(id);
        let mut rotten = node.disk.clone();
        overwrite(&mut rotten, &file, at + from, &bytes);
        let Some(running) = &node.running else { return };
        let lost = [*extent];
        if extent.read(&mut rotten).is_ok() || !comes_back(&rotten, &running.log, &lost, log, &options) {
            return; // The same bytes; or the log's end would be in doubt by it.
        }
        self.has_rotted(id, rotten, &lost, kind, &format!("byte {} of {file}", at + from));
    }

    /// These batches of a node's log, one behind the other, can't be read from now on.
    fn has_rotted(&mut self, id: NodeId, disk: VirtualDisk, lost: &[Extent], kind: FaultKind, place: &str) {
        let (Some(first), Some(last)) = (lost.first(), lost.last()) else { return };
        let (first, last) = (first.first, last.last);
        let node = self.node(id);
        node.disk = disk;
        node.rotten.push((first, last));
        let life = node.life;
        self.rotted.extend(lost.iter().map(|extent| (extent.first, end_of(extent))));
        self.count(kind);
        self.tell(|| format!("LSN {first} to {last} rot on the disk of node {id}, {place}"));
        let delay = Duration::from_millis(self.chance.between(1, 8_000));
        self.agenda.schedule(delay, Event::Scrub { node: id, life });
    }

    /// The footer of a segment whose index is not in memory rots, and all from one of its batches on, heads and directories of groups too.
    pub(super) fn rot_names(&mut self, id: NodeId) {
        let tries = if self.healed { 0 } else { NAMES_TRIES };
        let found = (0..tries).find_map(|_| self.somewhere(id).and_then(|lsn| self.without_names(id, lsn)));
        if let Some((disk, lost)) = found {
            let place = lost
                .first()
                .map_or_else(String::new, |extent| format!("with the footer of {}", segment_name(extent.segment)));
            self.has_rotted(id, disk, &lost, FaultKind::LostNames, &place);
        }
    }

    fn without_names(&mut self, id: NodeId, lsn: Lsn) -> Option<(VirtualDisk, Vec<Extent>)> {
        let (log, options) = (self.log, self.options.clone());
        let reaches = self.chance.between(1, 40);
        let node = &self.nodes[&id];
        let running = node.running.as_ref()?;
        running.log.index_needed(log, lsn)?; // Otherwise its names are in memory.
        let reopened = |disk: &VirtualDisk| {
            let mut disk = disk.clone();
            disk.crash(CrashKind::DropAll, &mut |_| 0);
            let (core, _) = LogCore::recover(&mut disk, &options).ok()?;
            Some((core, disk))
        };
        let (mut core, mut disk) = reopened(&node.disk)?;
        core.load_index(&mut disk, log, lsn);
        let plan = core.plan_read(log, lsn, usize::MAX).ok()?;
        let segment = plan.first()?.segment;
        let rest: Vec<_> = plan.into_iter().take_while(|extent| extent.segment == segment).collect();
        let zeroed = rest.iter().take(usize::try_from(reaches).unwrap_or(1));
        let (from, to) = (rest.first()?.offset, zeroed.map(|extent| extent.offset + u64::from(extent.len)).max()?);
        let (file, mut rotten) = (segment_name(segment), node.disk.clone());
        zero(&mut rotten, &file, from, to);
        zero(&mut rotten, &file, options.segment_bytes - FOOTER_BYTES, options.segment_bytes);
        let (mut now, mut reread) = reopened(&rotten)?;
        let mut is_lost = |extent: &Extent| {
            now.load_index(&mut reread, log, extent.first);
            let there = now.plan_read(log, extent.first, 1).is_ok_and(|plan| plan.first() == Some(extent));
            !there || extent.read(&mut reread).is_err()
        };
        let lost: Vec<_> = rest.into_iter().filter(|extent| is_lost(extent)).collect();
        let rests = running.replica.committed().min(running.log.durable_end(log).lsn);
        let is_here = |extent: &Extent| {
            let is_sound = !node.was_rotten(extent.first, extent.last) && extent.read(&mut disk.clone()).is_ok();
            is_sound && extent.last <= rests
        };
        let is_all_here = lost.iter().all(is_here) && comes_back(&rotten, &running.log, &lost, log, &options);
        let is_given = |extent: &Extent| self.is_elsewhere(id, extent.first, end_of(extent));
        (is_all_here && lost.iter().all(is_given)).then_some((rotten, lost))
    }

    /// Reads the whole log of a node, as a scrub does.
    pub(super) fn scrub(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        if !self.is_alive(id, life) {
            return Ok(());
        }
        let log = self.log;
        let mut found = false;
        let SimNode { running: Some(running), disk, rotten, .. } = self.node(id) else { return Ok(()) };
        let mut next = running.log.start(log).lsn.next();
        while next <= running.log.durable_end(log).lsn {
            running.log.load_index(disk, log, next);
            let known = running.log.damaged(log);
            let plan = running.log.plan_noting(log, next, 1 << 16);
            found |= running.log.damaged(log) != known;
            if let Err(ReadError::Corrupt { first, last, .. }) = &plan {
                expected(rotten, id, *first, *last)?;
            }
            let plan = plan.unwrap_or_default();
            let Some(last) = plan.last().map(|extent| extent.last) else {
                next = next.next(); // Known already, or nothing more is to be known of it.
                continue;
            };
            for extent in plan {
                if extent.read(disk).is_err() {
                    expected(rotten, id, extent.first, extent.last)?;
                    found |= running.log.note_damaged(&extent);
                }
            }
            next = last.next();
        }
        if found {
            self.tell(|| format!("a scrub of node {id} finds what can't be read"));
            self.find_damage(id)?;
        }
        Ok(())
    }

    /// Whatever is applied here is so at once: its state reads what comes next from the log.
    pub(super) fn find_damage(&mut self, id: NodeId) -> Result<(), Violation> {
        let Some(running) = &self.node(id).running else { return Ok(()) };
        let read = running.applier.applied().lsn;
        self.step(id, Input::DamageFound { read })
    }
}

impl SimNode {
    fn was_rotten(&self, first: Lsn, last: Lsn) -> bool {
        self.rotten.iter().any(|(from, to)| *from <= last && *to >= first)
    }
}

/// I8: damage where nothing rotted is damage that an honest disk has.
pub(super) fn expected(rotten: &[(Lsn, Lsn)], id: NodeId, first: Lsn, last: Lsn) -> Result<(), Violation> {
    if rotten.iter().any(|(from, to)| *from <= first && *to >= last) {
        return Ok(());
    }
    Err(Violation::new("I8", format!("node {id}: LSN {first} to {last} is damaged, and nothing rotted there")))
}

fn overwrite(disk: &mut VirtualDisk, file: &str, at: u64, bytes: &[u8]) {
    for (at, new) in (at..).zip(bytes) {
        let mut old = [0];
        if disk.read_at(file, at, &mut old).is_err() {
            return;
        }
        for bit in (0..8).filter(|bit| (old[0] ^ new) >> bit & 1 == 1) {
            disk.flip_bit(file, at * 8 + bit);
        }
    }
}

fn zero(disk: &mut VirtualDisk, file: &str, from: u64, to: u64) {
    overwrite(disk, file, from, &vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)]);
}

const fn end_of(extent: &Extent) -> LogPosition {
    LogPosition { epoch: extent.epoch, lsn: extent.last, chain: extent.chain }
}

/// Whether a node whose power fails now opens with all of its log, these batches at most being damaged.
fn comes_back(disk: &VirtualDisk, core: &LogCore, lost: &[Extent], log: LogId, options: &Options) -> bool {
    let (Some(lost_first), Some(lost_last)) = (lost.first(), lost.last()) else { return false };
    let mut disk = disk.clone();
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    let Ok((mut now, report)) = LogCore::recover(&mut disk, options) else { return false };
    let durable = core.durable_end(log);
    now.load_index(&mut disk, log, durable.lsn);
    let is_whole = now.position_at(log, durable.lsn) == Some(durable);
    let known = core.damaged(log);
    let is_known = |first: Lsn, last: Lsn| {
        (first >= lost_first.first && last <= lost_last.last)
            || known.iter().any(|(from, to)| *from <= first && *to >= last)
    };
    let only_that = report.damaged.iter().all(|range| range.log == log && is_known(range.first, range.last));
    is_whole && only_that && report.doubtful_hard_states.is_empty()
}
