//! What goes: of the logs, and of what was kept about sessions. Whether the log's disk has room, and whether a crash would have
//! too much to replay.
//!
//! Of the logs what the policy lets go, the state holds on the disk, and nobody needs any more.
//!
//! Among several nodes each lets its own log go, by what its configuration says. Who leads keeps what the followers that are
//! connected lack, within a budget; whoever lacks more is given a snapshot. Sessions and rejections go only on a node that is alone.

use super::hosting::ShardHandle;
use super::rest::{Again, Awake};
use super::shard::{Event, now, wall_micros};
use super::trimmer::Trimmer;
use super::unflushed::Unflushed;
use super::{STATUS_WITHIN, Shared};
use crate::model::{LogPosition, Lsn, Retention};
use crate::pipeline::Disk;
use crate::replica::{begins_by_state, first_boundary};
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use towline_wal::{Entry, LogId, Pending, ReadError, Wal};

/// How often it looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it waits between two flushes: each makes small files, which have to be compacted.
const FLUSH_PAUSE: Duration = Duration::from_secs(600);
/// And after one that failed.
const FLUSH_PAUSE_FAILED: Duration = Duration::from_secs(10);

/// Of a shard to which nothing is applied, how often it looks for what is too old: so many times in the age that is kept, and
/// once in so long.
const AGE_STEPS: u64 = 64;
const AGE_PAUSE_MAX: Duration = Duration::from_secs(60);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    unflushed: Unflushed,
    /// A release that the log has not finished.
    releasing: Option<Pending>,
    pace: Pace,
    /// Whether the log's disk was full at the last look.
    was_full: bool,
    ended: Receiver<Infallible>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, replay_bytes_max: u64, ended: Receiver<Infallible>) -> Self {
        let unflushed = Unflushed::new(replay_bytes_max);
        Self { shared, unflushed, releasing: None, pace: Pace::flushed(now()), was_full: false, ended }
    }

    /// Runs until the other end hangs up. It waits for nothing else: on a full disk a release may be on its way for long.
    pub(super) fn run(mut self) {
        let mut trimmer = Trimmer::default();
        while let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(PAUSE) {
            self.look_at_the_logs_disk();
            let awake = self.shared.awake(now());
            let mut wants_flush = false;
            if self.releasing.as_ref().is_none_or(Pending::is_done) {
                self.releasing.take().into_iter().for_each(told);
                (wants_flush, self.releasing) = self.shared.release_logs(&awake);
            } else {
                awake.iter().flat_map(|awake| &awake.shards).for_each(|shard| shard.rest.look(Again::Soon));
            }
            if self.shared.host.is_alone() {
                trimmer.look(&self.shared, &awake, now());
            }
            let is_enough = self.unflushed.is_enough(&self.shared, &awake);
            let now = now();
            // Otherwise a log that is written to seldom, or whose writes leave little in the state, would stay for ever.
            let is_due = wants_flush && self.pace.lets_release(now);
            if is_due || self.pace.lets_flush(now) && is_enough {
                self.flush();
            }
        }
    }

    /// While the log's disk is full no shard takes writes (fault D9): what it took before waits for room, and more would wait
    /// only in memory.
    fn look_at_the_logs_disk(&mut self) {
        let is_full = self.shared.host.wal.is_disk_full();
        // Most often it has room, as before, and nobody needs to be told; while it is full, also those who came since.
        if !is_full && !std::mem::replace(&mut self.was_full, is_full) {
            return;
        }
        self.was_full = is_full;
        for shard in self.shared.registry.shards() {
            let shard_id = shard.descriptor.shard;
            match (shard.queue.set_full(Disk::Log, is_full), is_full) {
                (true, true) => tracing::error!(shard = %shard_id, "the disk of the log is full: writes wait for room"),
                (true, false) => tracing::info!(shard = %shard_id, "the disk of the log has room again"),
                (false, _) => {}
            }
        }
    }

    fn flush(&mut self) {
        let flush = Unflushed::begin(&self.shared);
        match self.shared.gate.with(|store| store.flush()) {
            Some(Ok(())) => {
                self.unflushed.end(flush);
                self.pace = Pace::flushed(now());
            }
            Some(Err(error)) => {
                self.pace = Pace::failed(now());
                tracing::warn!(%error, "the state was not flushed, so its log stays");
            }
            None => {}
        }
    }
}

/// When the state may be flushed again.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Not before, for whatever reason.
    again: Instant,
    /// Not before, if all that it would bring is that more of a log can go.
    release: Instant,
}

impl Pace {
    /// It was flushed at this moment.
    fn flushed(at: Instant) -> Self {
        Self { again: at, release: at + FLUSH_PAUSE }
    }

    /// It was not, though it was tried: the disk may have no room, or has an error that each further try adds to.
    fn failed(at: Instant) -> Self {
        Self { again: at + FLUSH_PAUSE_FAILED, release: at + FLUSH_PAUSE_FAILED }
    }

    fn lets_flush(&self, now: Instant) -> bool {
        now >= self.again
    }

    fn lets_release(&self, now: Instant) -> bool {
        now >= self.release
    }
}

/// What came of a release; what does not work now is tried again.
fn told(released: Pending) {
    if let Err(error) = released.wait() {
        // A log that is dropped at this moment, or a disk that is full: the next look is soon.
        tracing::debug!(%error, "nothing was released");
    }
}

impl Shared {
    /// Releases what may go of these, of all logs together: whether more might if the state were flushed, and what is under way.
    pub(super) fn release_logs(&self, awake: &[Awake]) -> (bool, Option<Pending>) {
        let _span = tracing::trace_span!("release").entered();
        let mut beyond = Vec::new();
        for Awake { served, shards } in awake {
            let by_policy = served.descriptor.read().policy.retention;
            let retention = if self.host.is_alone() { by_policy } else { self.host.retention };
            for shard in shards {
                if self.lets_go(shard, retention, shard.positions.unmendable()).is_none() {
                    shard.rest.look(older_again(retention));
                    continue;
                }
                shard.rest.look(Again::Soon);
                // Asked before others are held up.
                beyond.extend(self.needed_by_followers(shard).map(|needed| (shard, retention, needed)));
            }
        }
        if beyond.is_empty() {
            return (false, None);
        }
        let alone = self.letting_go.write();
        let mut wants_flush = false;
        // A beginning that the log refuses, of which it may know better by now, must not keep others' releases.
        let (mut releases, mut beginnings) = ((Vec::new(), Vec::new()), Vec::new());
        for (shard, retention, needed) in beyond {
            let lost = shard.positions.unmendable();
            let Some(found) = self.may_go(shard, retention, needed, lost) else { continue };
            wants_flush |= found.wants_flush;
            let Some(to) = found.to else { continue };
            let given_up = lost.filter(|(first, _)| *first <= to.lsn).map(|(_, last)| last.min(to.lsn));
            if found.is_known {
                releases.0.push(Entry::Release { log: shard.log, before: to.lsn.next() });
                releases.1.push((shard, given_up));
            } else {
                beginnings.push((vec![Entry::Begin { log: shard.log, at: to }], vec![(shard, given_up)]));
            }
        }
        let (mut submitted, mut released) = (None, Vec::new());
        for (entries, of) in beginnings.into_iter().chain([releases]).filter(|(entries, _)| !entries.is_empty()) {
            match self.host.wal.submit(entries) {
                Ok(pending) => {
                    submitted = Some(pending);
                    released.extend(of);
                }
                Err(error) => tracing::debug!(%error, "nothing was released"),
            }
        }
        drop(alone);
        released.into_iter().for_each(|(shard, given_up)| tell_released(shard, given_up));
        (wants_flush, submitted)
    }

    /// Up to where nothing is needed for those who are fed from here: what a follower that is connected holds, within the budget.
    /// None: the shard is too busy to say.
    fn needed_by_followers(&self, shard: &ShardHandle) -> Option<Lsn> {
        if self.host.is_alone() || shard.positions.serving().is_none() {
            return Some(Lsn::MAX);
        }
        let (reply, answer) = bounded(1);
        shard.events.send(Event::Status(reply));
        let status = answer.recv_timeout(STATUS_WITHIN).ok()?;
        let connected = status.followers.iter().filter(|follower| follower.connected);
        let lowest = connected.map(|follower| Lsn::new(follower.durable)).min().unwrap_or(Lsn::MAX);
        Some(lowest.max(self.host.wal.boundary_keeping(shard.log, self.host.snapshots.log_bytes)))
    }

    /// Where the log begins, and up to where the policy lets it go, if that is more than has gone, or if nobody can mend what lies there
    /// (`lost`).
    fn lets_go(&self, shard: &ShardHandle, retention: Retention, lost: Option<(Lsn, Lsn)>) -> Option<(Lsn, Lsn)> {
        let (wal, log) = (&*self.host.wal, shard.log);
        let start = wal.start_of(log).lsn;
        let by_policy = match retention {
            Retention::Bounded { bytes, age_seconds } => {
                wal.boundary_keeping(log, bytes).max(older_than(wal, log, start, age_seconds))
            }
            _ => start,
        };
        (by_policy.max(lost.map_or(start, |(_, last)| last)) > start).then_some((start, by_policy))
    }

    /// What of the log may go, if the policy lets more of it go than has, or nobody can mend what lies there: then nobody can read it
    /// either, and whoever needs it is helped by a snapshot only.
    fn may_go(
        &self,
        shard: &ShardHandle,
        retention: Retention,
        needed: Lsn,
        lost: Option<(Lsn, Lsn)>,
    ) -> Option<MayGo> {
        let (wal, log) = (&*self.host.wal, shard.log);
        let (start, by_policy) = self.lets_go(shard, retention, lost)?;
        // Where it ends no batch may be known: then the next one that is goes as well.
        let boundary = |lsn| wal.boundary_at_or_before(log, lsn);
        let lost = lost.map(|(first, last)| (first, first_boundary(last, wal.end(log), boundary).lsn));
        let flushed = self.gate.with(|store| {
            // What a follower said is true of the next life only when it is on the disk.
            shard.followers.confirm(|name| store.persisted_follower(shard.descriptor.shard, name))?;
            store.persisted_applied(shard.descriptor.shard)
        });
        // Of a state that can't be read nothing is known to be on the disk: what it needs stays. Who applies to it says why.
        let state = flushed?.ok()?.unwrap_or_else(|| LogPosition::origin(log));
        let flushed = state.lsn;
        let applied = shard.positions.applied();
        let pinned = shard.pins.lowest(by_policy, applied, |bytes| wal.boundary_keeping(log, bytes));
        // Otherwise a crash would want to replay what is gone, or a reader that is within its budget would miss some.
        let may_go = by_policy
            .min(pinned.unwrap_or(Lsn::MAX))
            .min(needed)
            // Of what can't be read the state may have a part only. The rest is asked for by itself then.
            .max(lost.filter(|(first, _)| *first <= flushed).map_or(start, |(_, last)| last.min(flushed)));
        let lost_wants_flush = lost.is_some_and(|(first, last)| first <= applied && flushed < last.min(applied));
        let known = wal.boundary_at_or_before(log, may_go.min(flushed))?;
        // Where nothing of the log names where the state is, that does. Behind it comes what is to be asked for by itself.
        let is_given_up = lost.is_some_and(|(first, _)| first <= flushed && flushed <= may_go)
            && begins_by_state(flushed, Some(known), &wal.damaged(log))
            // A state that was replaced since is another log's perhaps.
            && shard.positions.unmendable().is_some();
        let to = if is_given_up { state } else { known };
        let wants_flush = lost_wants_flush || flushed < may_go.min(applied) || shard.followers.has_unconfirmed();
        Some(MayGo { to: Some(to).filter(|to| to.lsn > start), is_known: !is_given_up, wants_flush })
    }
}

/// Tells a shard that some of its log was let go, if some of that may be damaged, for whatever reason it went: otherwise its replica
/// asks for ever for what no log needs any more, and from where it has no position.
fn tell_released(shard: &ShardHandle, given_up: Option<Lsn>) {
    if let Some(last) = given_up {
        tracing::warn!(shard = %shard.descriptor.shard, %last, "nobody can mend the log up to here: it is given up");
    }
    if given_up.is_some() || shard.positions.damaged() > 0 {
        shard.events.send(Event::DamageFound);
    }
}

/// What of a log may go.
struct MayGo {
    /// Everything up to here, if it is still there.
    to: Option<LogPosition>,
    /// A batch is known that ends there.
    is_known: bool,
    /// More, if the state were flushed.
    wants_flush: bool,
}

/// When to look whether something has become too old: a little late is no harm, and to look reads the log.
fn older_again(retention: Retention) -> Again {
    match retention {
        Retention::Forever | Retention::Bounded { age_seconds: u64::MAX, .. } => Again::Never,
        Retention::Bounded { age_seconds, .. } => {
            Again::At(now() + Duration::from_secs(age_seconds / AGE_STEPS).clamp(PAUSE, AGE_PAUSE_MAX))
        }
    }
}

fn older_than(wal: &Wal, log: LogId, start: Lsn, age_seconds: u64) -> Lsn {
    let cutoff = wall_micros().saturating_sub(age_seconds.saturating_mul(1_000_000));
    if cutoff == 0 { start } else { older_than_micros(wal, log, start, cutoff) }
}

/// The end of the last batch that was sealed before this moment, as far as the time stamps rise; `start` if there is none.
fn older_than_micros(wal: &Wal, log: LogId, start: Lsn, cutoff: u64) -> Lsn {
    let old = |lsn: Lsn| old_batch(wal, log, lsn, cutoff);
    let Some(mut low) = old(start.next()) else { return start };
    let mut high = wal.end(log).lsn;
    while low < high {
        let middle = Lsn::new(low.get().midpoint(high.get())).next();
        match old(middle) {
            Some(end) => low = end,
            None => high = middle.prev(),
        }
    }
    low
}

/// The end of the batch that holds an LSN, if that was sealed before this moment. What can't be read is as old as what lies behind it:
/// otherwise a log with damage would never go for its age. Each look doubles how far behind, since a disk may take its time to say
/// that it can't read.
fn old_batch(wal: &Wal, log: LogId, lsn: Lsn, cutoff: u64) -> Option<Lsn> {
    let (end, mut next, mut step) = (wal.end(log).lsn, lsn, 1);
    loop {
        match wal.read(log, next, 1) {
            Ok(batches) => {
                let batch = batches.into_iter().next()?;
                return (batch.header().time_micros < cutoff).then(|| batch.last_lsn());
            }
            Err(ReadError::Corrupt { last, .. }) if last < end => {
                next = last.advance(step).min(end);
                step *= 2;
            }
            // Nothing behind it is known to be old enough: it stays.
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
#[path = "keeper_test.rs"]
mod tests;
