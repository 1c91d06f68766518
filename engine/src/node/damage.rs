//! What of a shard's log can't be read: its replica gets it again from another node, where there is one; here is who is told.

use super::shard::Shard;
use crate::model::Lsn;
use crate::replica::{Input, Phase};

impl Shard {
    /// Tells of damage that came or went. A node that is alone stops for it: nobody can give it what is missing, and an operator
    /// decides (`towline wal repair`).
    pub(super) fn look_at_damage(&mut self) {
        if self.replica.damaged().is_empty() && self.state.damaged.is_empty() {
            return;
        }
        self.positions.set_unmendable(self.replica.unmendable());
        let damaged = self.replica.damaged();
        if damaged != self.state.damaged {
            match (damaged.first(), damaged.last()) {
                (Some((first, _)), Some((_, last))) => tracing::error!(
                    node = %self.id, shard = %self.shard, %first, %last, ranges = damaged.len(),
                    refused = self.replica.mends_refused(),
                    "a part of the log can't be read: it is asked for from other nodes"
                ),
                _ => tracing::warn!(node = %self.id, shard = %self.shard, "the log is whole again"),
            }
            self.state.damaged = damaged.to_vec();
        }
        if self.replica.phase() == Some(Phase::Mending) && self.master.voters() == [self.id] {
            let from = damaged.first().map_or(Lsn::ZERO, |(first, _)| *first);
            self.fail(&format!("the log is damaged from LSN {from} on, and no other node has it"));
        }
    }

    /// The applier came upon what can't be read: whether somebody else may have it, or the state that comes of it.
    pub(super) fn may_be_mended(&mut self) -> bool {
        self.step(Input::DamageFound);
        self.master.voters() != [self.id] && self.awaits_mend(self.applied.lsn.next())
    }

    /// Whether what the state needs next can't be read.
    pub(super) fn awaits_mend(&self, next: Lsn) -> bool {
        self.replica.damaged().iter().any(|(first, last)| *first <= next && *last >= next)
    }
}
