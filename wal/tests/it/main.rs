//! What a user of the log can see, on a disk that fails (`world`), and on real files (`files`).
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod afterlife;
mod cold_reads;
mod compaction;
mod crashes;
mod damage;
mod decay;
mod directory;
mod doubts;
mod evidence;
mod exhaustive;
mod failpoints;
mod faults;
mod files;
mod flips;
mod full;
mod kills;
mod lifecycle;
mod losses;
mod mends;
mod misplaced;
mod names;
mod repair;
mod space;
mod stalls;
mod tails;
mod world;
