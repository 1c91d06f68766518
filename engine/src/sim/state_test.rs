//! States in RocksDB leave the trace that states in memory leave.

use super::state::StateKind;
use super::world::{run_seed, run_seed_with};

#[cfg(feature = "node")]
#[test]
fn i4_a_seed_leaves_the_same_trace_with_its_states_in_rocksdb() {
    for seed in [3, 8] {
        let (memory, rocks) = (run_seed(seed, false), run_seed_with(seed, StateKind::Rocksdb, false).unwrap());
        assert_eq!((&memory.violation, &rocks.violation), (&None, &None), "seed {seed}");
        assert_eq!(memory.trace_hash, rocks.trace_hash, "seed {seed}");
        assert!(rocks.totals.crashes > 0, "seed {seed}: no state was taken back to its flush");
    }
}

#[cfg(not(feature = "node"))]
#[test]
fn a_program_without_rocksdb_says_so() {
    let refused = run_seed_with(3, StateKind::Rocksdb, false).unwrap_err();
    assert!(refused.contains("without RocksDB"), "{refused}");
    assert_eq!(run_seed(3, false).trace_hash, run_seed_with(3, StateKind::Memory, false).unwrap().trace_hash);
}
