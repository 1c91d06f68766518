//! What of a shard's log can't be read: its replica gets it again from another node, where there is one; here is who is told.

use super::shard::Shard;
use super::snapshots::Replacing;
use crate::model::Lsn;
use crate::replica::{Input, Phase};

impl Shard {
    /// Somebody who read the log came upon what can't be read, or a part of it that can't was released.
    ///
    /// A node that votes alone notes it, and goes on: what was read for the state is there. Its replica must not hear of
    /// it: it would wait for another node to give that again, and acknowledge nothing behind it meanwhile.
    pub(super) fn damage_found(&mut self) {
        if self.votes_alone() {
            self.tell_damage(self.wal.damaged(self.log));
        } else {
            self.find_damage();
        }
    }

    /// What is being applied was read before this was known; otherwise the state needs what comes next from the log, readable or not.
    fn find_damage(&mut self) {
        let read = match self.state.replacing {
            Replacing::Done(at) => at.lsn,
            _ if self.state.applying => self.replica.applicable(),
            _ => self.applied.lsn,
        };
        self.step(Input::DamageFound { read });
    }

    /// Tells of damage that came or went. A node that is alone stops for what its opening found: nobody can give it what is
    /// missing, and an operator decides (`towline wal repair`).
    pub(super) fn look_at_damage(&mut self) {
        if self.replica.damaged().is_empty() && self.state.damaged.is_empty() {
            return;
        }
        self.positions.set_unmendable(self.replica.unmendable());
        let is_alone = self.votes_alone();
        // What was being applied when that was found ended before it.
        let is_at_rest = !self.state.applying && !self.state.failed && self.state.replacing == Replacing::No;
        let is_next = self.replica.applicable() > self.applied.lsn && self.awaits_mend(self.applied.lsn.next());
        if is_next && is_at_rest && !is_alone {
            self.find_damage();
        }
        self.tell_damage(if is_alone { self.wal.damaged(self.log) } else { self.replica.damaged().to_vec() });
        if is_alone && self.replica.phase() == Some(Phase::Mending) {
            let from = self.state.damaged.first().map_or(Lsn::ZERO, |(first, _)| *first);
            self.fail(&format!(
                "the log is damaged from LSN {from} on, and no other node has it: stop the node, and `towline wal repair` gives up what \
                 can't be read"
            ));
        }
    }

    fn tell_damage(&mut self, damaged: Vec<(Lsn, Lsn)>) {
        if damaged == self.state.damaged {
            return;
        }
        let (node, shard, ranges) = (self.id, self.shard, damaged.len());
        match (damaged.first(), damaged.last()) {
            (Some((first, _)), Some((_, last))) if self.votes_alone() && self.replica.damaged().is_empty() => {
                tracing::error!(
                    %node, %shard, %first, %last, ranges,
                    "a part of the log can't be read, and no other node has it: writes go on, feeds and backups can't pass it. \
                     What it did is in the state. Look at the disk, and have the namespace keep less of its log \
                     (Policy::retention): when that is let go, the log is whole. Until then an opening may stop the shard"
                );
            }
            (Some((first, _)), Some((_, last))) if self.votes_alone() => {
                tracing::error!(%node, %shard, %first, %last, ranges, "the shard needs what of its log can't be read");
            }
            (Some((first, _)), Some((_, last))) => tracing::error!(
                %node, %shard, %first, %last, ranges, refused = self.replica.mends_refused(),
                "a part of the log can't be read: it is asked for from other nodes"
            ),
            _ => tracing::warn!(%node, %shard, "the log is whole again"),
        }
        self.positions.set_damaged(ranges);
        self.state.damaged = damaged;
    }

    fn votes_alone(&self) -> bool {
        self.master.voters() == [self.id]
    }

    /// The applier came upon what can't be read: whether somebody else may have it, or the state that comes of it.
    pub(super) fn may_be_mended(&mut self) -> bool {
        self.find_damage();
        !self.votes_alone() && self.awaits_mend(self.applied.lsn.next())
    }

    /// Whether what the state needs next can't be read.
    pub(super) fn awaits_mend(&self, next: Lsn) -> bool {
        self.replica.damaged().iter().any(|(first, last)| *first <= next && *last >= next)
    }
}
