//! The scrubber: reads every batch of the log again, slowly, as long as the node is open. So rot is found while another node has a
//! good copy. What lies around them in the files (footers, the groups' directories, the hard states of the logs) it does not read:
//! of those an opening finds what it needs, or says what it lacks.
//!
//! Nothing else reads what is at rest. An opening scans what was written last, a feed and a follower read what they lack; a
//! copy that rots behind them is missed when the other ones are lost (fault D12). The scrubber only reads: what it finds it
//! gives to the shard whose log it is, as everybody does who comes upon damage, and that has it mended by another node.

use super::Shared;
use super::open::CATALOG;
use super::shard::{Event, now, wall_time};
use crate::model::{LogId, Lsn};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use towline_wal::{DamagedRange, Verified, WalError};

/// When the first pass begins at the latest: a node that is started anew every few days is read all the same.
const FIRST_PAUSE_MAX: Duration = Duration::from_secs(600);
/// A log that holds nothing is read in no time, and must not be read all the time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Before it goes on when the system refused to read, for want of memory or descriptors.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// What a part costs at the least, however few bytes it has: so a log of many small parts is no burden either.
const PART_BYTES_MIN: u64 = 64 << 10;
/// What a damaged range costs, which was read twice. How long it is plays no part: a part has one at the most.
const DAMAGE_BYTES: u64 = 1 << 20;

pub(super) struct Scrubber {
    shared: Arc<Shared>,
    bytes_per_second: u64,
    pause: Duration,
    refused_pause: Duration,
    ended: Receiver<Infallible>,
}

/// What came of a pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) bytes: u64,
    pub(super) damaged: u64,
}

/// A part of one log: what lies behind the one boundary, up to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    log: LogId,
    behind: Lsn,
    to: Lsn,
}

impl Scrubber {
    pub(super) fn new(
        shared: Arc<Shared>,
        bytes_per_second: u64,
        pause: Duration,
        ended: Receiver<Infallible>,
    ) -> Self {
        let (bytes_per_second, pause) = (bytes_per_second.max(1), pause.max(PAUSE_MIN));
        Self { shared, bytes_per_second, pause, refused_pause: REFUSED_PAUSE, ended }
    }

    /// Runs until the other end hangs up.
    pub(super) fn run(self) {
        let mut pause = self.pause.min(FIRST_PAUSE_MAX);
        while self.waits(pause) && self.pass().is_some() {
            pause = self.pause;
        }
    }

    /// Reads everything once. None: the node closes.
    pub(super) fn pass(&self) -> Option<Passed> {
        let begun = now();
        let mut passed = Passed::default();
        for stretch in self.stretches() {
            self.scrub(stretch, &mut passed)?;
        }
        // It looks once more: what of it was released, or mended unseen; and asks whom it has not asked yet. Who had nothing is
        // asked again only when it connects anew, or says that something of its own log changed.
        let damaged = self.shared.registry.shards().into_iter().filter(|shard| shard.positions.damaged() > 0);
        damaged.for_each(|shard| shard.events.send(Event::DamageFound));
        let seconds = now().saturating_duration_since(begun).as_secs_f64();
        let mut stats = self.shared.scrubbed.lock();
        stats.passes += 1;
        stats.last_pass = Some(wall_time());
        stats.last_pass_damaged_ranges = passed.damaged;
        let (node, passes, Passed { bytes, damaged }) = (self.shared.host.node, stats.passes, &passed);
        drop(stats);
        if *damaged == 0 {
            tracing::info!(%node, passes, bytes, seconds, "the log was scrubbed: all of it can be read");
        } else {
            tracing::warn!(%node, passes, bytes, damaged, seconds, "the log was scrubbed: some of it can't be read");
        }
        Some(passed)
    }

    /// All logs, from a place on that chance says: a node that is started anew before a pass ends would never read the rest.
    fn stretches(&self) -> Vec<Stretch> {
        let (wal, passes) = (&self.shared.host.wal, self.shared.scrubbed.lock().passes);
        let mut logs = wal.logs();
        if logs.is_empty() {
            return Vec::new();
        }
        // Of two passes the seed is the same, and the places should not be.
        let chance = self.shared.host.seed.wrapping_add(passes).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let first = usize::try_from(chance >> 32).unwrap_or(0) % logs.len();
        logs.rotate_left(first);
        let Some((log, others)) = logs.split_first() else { return Vec::new() };
        let (start, end) = (wal.start_of(*log).lsn, wal.end(*log).lsn);
        let records = start.distance_to(end).unwrap_or(0);
        let place = start.advance(chance % records.saturating_add(1));
        let place = wal.boundary_at_or_before(*log, place).map_or(start, |at| at.lsn);
        let whole = others.iter().map(|log| Stretch { log: *log, behind: Lsn::ZERO, to: Lsn::MAX });
        let before = Stretch { log: *log, behind: Lsn::ZERO, to: place };
        [Stretch { log: *log, behind: place, to: Lsn::MAX }].into_iter().chain(whole).chain([before]).collect()
    }

    /// Reads a stretch, as far as the log goes when it begins: what comes meanwhile has its turn in the next pass.
    fn scrub(&self, stretch: Stretch, passed: &mut Passed) -> Option<()> {
        let (wal, log) = (&self.shared.host.wal, stretch.log);
        let to = stretch.to.min(wal.end(log).lsn);
        let first = stretch.behind.max(wal.start_of(log).lsn).next();
        let mut next = Some(first).filter(|first| *first <= to);
        while let Some(from) = next {
            let cost = self.part_read(log, wal.verify_part(log, from, to), &mut next, passed)?;
            let micros = cost.saturating_mul(1_000_000) / self.bytes_per_second;
            if !self.waits(Duration::from_micros(micros)) {
                return None;
            }
        }
        Some(())
    }

    /// What came of a part: what it cost, and where to go on. Where the system refused to read, at the same place, after a pause. None:
    /// the node closes.
    fn part_read(
        &self,
        log: LogId,
        part: Result<(Verified, Option<Lsn>), WalError>,
        next: &mut Option<Lsn>,
        passed: &mut Passed,
    ) -> Option<u64> {
        match part {
            Ok((verified, behind)) => {
                *next = behind;
                Some(self.note(log, verified, passed))
            }
            Err(WalError::Closed) => None,
            Err(error) => {
                tracing::warn!(%error, "the log is not scrubbed for the moment");
                self.waits(self.refused_pause).then_some(0)
            }
        }
    }

    /// Counts what was read, and says what is damaged. What it cost.
    fn note(&self, log: LogId, verified: Verified, passed: &mut Passed) -> u64 {
        let cost = verified.bytes.saturating_add(DAMAGE_BYTES.saturating_mul(verified.damaged.len() as u64));
        let bytes = verified.bytes;
        let damaged = if verified.damaged.is_empty() { 0 } else { self.hand_over(log, verified.damaged) };
        passed.bytes += bytes;
        passed.damaged += damaged;
        let mut stats = self.shared.scrubbed.lock();
        stats.bytes += bytes;
        stats.damaged_ranges += damaged;
        cost.max(PART_BYTES_MIN)
    }

    /// Tells whom it concerns: how many ranges do.
    fn hand_over(&self, log: LogId, damaged: Vec<DamagedRange>) -> u64 {
        let (host, registry) = (&self.shared.host, &self.shared.registry);
        let bounds = (host.wal.start_of(log).lsn, host.wal.end(log).lsn);
        let left: Vec<_> = damaged.into_iter().filter_map(|range| still_there(range, bounds)).collect();
        let Some(DamagedRange { first, last, file, offset, .. }) = left.first() else { return 0 };
        let (node, ranges) = (host.node, left.len());
        if let Some(shard) = registry.shards().iter().find(|shard| shard.log == log) {
            let id = shard.descriptor.shard;
            tracing::error!(%node, shard = %id, %first, %last, file, offset, ranges, "a scrub found what can't be read");
            let told = host.wal.damaged(log);
            let is_told = |at: Lsn| told.iter().any(|(first, last)| *first <= at && *last >= at);
            if let Some(DamagedRange { first, last, file, .. }) = left.iter().find(|range| !is_told(range.first)) {
                tracing::error!(
                    %node, shard = %id, %first, %last, file,
                    "the device refuses to read what says which batches these are, so they are not asked for from other nodes as \
                     long as this one runs: look at the disk, and at what the next opening says"
                );
            }
            shard.events.send(Event::DamageFound);
        } else if log == host.log_of(CATALOG) {
            tracing::error!(
                %node, %first, %last, file, offset, ranges,
                "a scrub found that the log of the namespaces can't be read: the node works as long as it runs, and will not open \
                 again (TW-6413). Take a backup now, or, if a majority of the others is well, give it an empty disk"
            );
        } else {
            // A namespace that is being dropped.
            tracing::debug!(%node, %log, %first, %last, "a scrub found damage in a log that nobody has any more");
            return 0;
        }
        ranges as u64
    }

    /// Whether the node is still open after this time.
    fn waits(&self, time: Duration) -> bool {
        matches!(self.ended.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }
}

/// What is left of a range of a log that begins behind the one and ends at the other: meanwhile it may have been released,
/// or cut off.
fn still_there(mut range: DamagedRange, (start, end): (Lsn, Lsn)) -> Option<DamagedRange> {
    (range.first, range.last) = (range.first.max(start.next()), range.last.min(end));
    (range.first <= range.last).then_some(range)
}

#[cfg(test)]
#[path = "scrubber_test.rs"]
pub(super) mod tests;
