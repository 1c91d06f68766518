//! Snapshots in the simulated world.
