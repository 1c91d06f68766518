//! What a seed draws for itself before it begins: how fast, how large, how faulty its world is.
//!
//! A fault that is likely everywhere hides others behind it: so each seed weighs each kind of fault anew, and
//! leaves some out (swarm testing: Groce et al., ISSTA 2012).

use super::chance::Chance;
use super::fault::FaultKind;

/// A seed's own world.
#[derive(Debug)]
pub(super) struct Swarm {
    /// Clients, and how many of them keep a session.
    pub(super) clients: u64,
    pub(super) sessions: usize,
    /// The typical pause of a client between two bursts, and the most writes of one.
    pub(super) pause_micros: u64,
    pub(super) burst_max: u64,
    /// The largest value, in bytes.
    pub(super) value_max: u64,
    /// Typical latencies: of a link, and of a sync.
    pub(super) link_micros: u64,
    pub(super) sync_micros: u64,
    /// The typical time between two faults.
    pub(super) fault_every_ms: u64,
    /// How long, typically, the control plane waits for a leader of which it hears nothing.
    pub(super) patience_ms: u64,
    /// How long a leader goes on without a majority.
    pub(super) quorum_ms: u64,
    /// How often a node releases its log after a flush, how much of it it keeps, and how large chunks of snapshots are.
    pub(super) release_per_mille: u64,
    pub(super) kept_bytes: u64,
    pub(super) chunk_bytes: usize,
    /// What each kind of fault weighs against the others.
    weights: Vec<(FaultKind, u64)>,
}

impl Swarm {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let clients = chance.between(1, 8);
        let sessions = usize::try_from(chance.between(1, 4)).unwrap_or(1);
        // All clients together write 50 to 150 times a second, in bursts or one by one.
        let (rate, burst_max) = (chance.between(50, 150), chance.between(1, 12));
        let pause_micros = clients * 1_000_000 * (burst_max + 1) / 2 / rate;
        let rots = |kind: &FaultKind| {
            use FaultKind::{BitFlip, LostNames, LostWrite, MisdirectedWrite};
            matches!(kind, BitFlip | LostWrite | MisdirectedWrite | LostNames)
        };
        let others = FaultKind::ALL.into_iter().filter(|kind| !rots(kind));
        let mut weights: Vec<_> = others.map(|kind| (kind, Self::weight(chance))).collect();
        // Aside, so that all else that a seed draws is what it was before there were these.
        let mut aside = chance.clone();
        weights.extend(FaultKind::ALL.into_iter().filter(rots).map(|kind| (kind, Self::weight(&mut aside))));
        // One seed in five is a storm.
        let is_storm = chance.per_mille(200);
        let fault_every_ms = if is_storm { chance.between(100, 400) } else { chance.between(400, 3_000) };
        if weights.iter().all(|(_, weight)| *weight == 0) {
            weights = vec![(FaultKind::Kill, 1)];
        }
        Self {
            clients,
            sessions,
            pause_micros,
            burst_max,
            value_max: chance.pick(&[50, 200, 200, 1_000, 4_000]).unwrap_or(200),
            link_micros: chance.pick(&[100, 300, 300, 1_000, 5_000]).unwrap_or(300),
            sync_micros: chance.pick(&[100, 400, 400, 2_000]).unwrap_or(400),
            fault_every_ms,
            patience_ms: chance.between(200, 2_000),
            quorum_ms: chance.between(300, 5_000),
            // One seed in four keeps everything.
            release_per_mille: chance.pick(&[0, 50, 300, 1_000]).unwrap_or(0),
            kept_bytes: chance.pick(&[0, 5_000, 50_000]).unwrap_or(0),
            chunk_bytes: chance.pick(&[20_000, 100_000, 1_000_000]).unwrap_or(100_000),
            weights,
        }
    }

    fn weight(chance: &mut Chance) -> u64 {
        if chance.per_mille(250) { 0 } else { chance.between(1, 10) }
    }

    /// One kind of fault, as this seed weighs them.
    pub(super) fn fault(&self, chance: &mut Chance) -> Option<FaultKind> {
        let total = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = chance.below(total);
        for (kind, weight) in &self.weights {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return Some(*kind),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_seed_leaves_kinds_out_and_all_seeds_together_leave_none_out() {
        let mut all = BTreeSet::new();
        for seed in 0..50 {
            let mut chance = Chance::new(seed);
            let swarm = Swarm::draw(&mut chance);
            let drawn: BTreeSet<_> = (0..5_000).filter_map(|_| swarm.fault(&mut chance)).collect();
            let weighed: BTreeSet<_> = swarm.weights.iter().filter(|(_, w)| *w > 0).map(|(kind, _)| *kind).collect();
            assert_eq!(drawn, weighed, "seed {seed}: what weighs something is drawn, and nothing else");
            assert!(drawn.len() < FaultKind::ALL.len(), "seed {seed} leaves nothing out");
            all.extend(drawn);
        }
        assert_eq!(all.len(), FaultKind::ALL.len());
    }
}
