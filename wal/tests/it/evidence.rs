//! What a harmed disk may show, told from the whole one's layout and from where the harm lies, and not by the code under test:
//! what a later group or segment proves durable is served right or named `Corrupt`, at its place and no wider, and never
//! cut off (I8).

use std::ops::Range;

use towline_wal::inspect::{BatchView, GroupView, inspect_io};
use towline_wal::io::Io;
use towline_wal::vdisk::VirtualDisk;
use towline_wal::{Batch, HardStateKind, LogCore, LogId, Lsn, OpenReport, ReadError};

use crate::world::{Model, log};

pub(crate) const PROMISE: HardStateKind = HardStateKind::Promise;

const SEGMENT_HEADER: Range<u64> = 0..4096;

struct Placed {
    segment: u64,
    file: String,
    group: GroupView,
}

impl Placed {
    /// The group's header and directories.
    fn front(&self) -> Range<u64> {
        let end = self.group.batches.first().map_or(self.group.offset + self.group.bytes, |batch| batch.offset);
        self.group.offset..end
    }
}

/// Where everything lies on a disk that nothing has harmed.
pub(crate) struct Layout {
    groups: Vec<Placed>,
}

impl Layout {
    pub(crate) fn of(disk: &VirtualDisk) -> Self {
        let mut groups = Vec::new();
        for segment in inspect_io(&mut disk.clone()).unwrap().segments {
            let (number, file) = (segment.number, segment.file);
            groups.extend(segment.groups.into_iter().map(|group| Placed {
                segment: number,
                file: file.clone(),
                group,
            }));
        }
        assert!(groups.iter().any(|placed| !placed.group.batches.is_empty()), "there is something to harm");
        Self { groups }
    }

    pub(crate) fn harmed_at(&self, file: &str, bytes: Range<u64>) -> Harm<'_> {
        Harm { layout: self, hit: vec![(file.to_owned(), bytes)] }
    }

    /// All blocks that are not the same on the two disks.
    pub(crate) fn harm_between(&self, good: &mut VirtualDisk, bad: &mut VirtualDisk) -> Harm<'_> {
        let mut hit = Vec::new();
        for name in good.list().unwrap() {
            let len = good.len(&name).unwrap();
            for at in (0..len).step_by(512) {
                let mut blocks = [[0; 512], [0xEE; 512]];
                let [whole, harmed] = &mut blocks;
                let there = good.read_at(&name, at, whole).unwrap();
                let found = bad.read_at(&name, at, harmed).unwrap_or(0);
                if found < there || whole[..there] != harmed[..there] {
                    hit.push((name.clone(), at..at + 512));
                }
            }
        }
        Harm { layout: self, hit }
    }

    /// The place of a batch, the index of its group first. A batch that was cut off and written anew counts where it is newest.
    fn place_of(&self, batch: &Batch) -> (usize, &BatchView) {
        let is_it = |view: &&BatchView| {
            view.log == batch.log()
                && view.first == batch.first_lsn()
                && view.last == batch.last_lsn()
                && view.epoch == batch.epoch()
        };
        let found = self.groups.iter().enumerate().rev().find_map(|(i, placed)| {
            let view = placed.group.batches.iter().find(is_it)?;
            Some((i, view))
        });
        found.unwrap_or_else(|| panic!("log {} at {} is nowhere", batch.log(), batch.first_lsn()))
    }
}

/// What must become of a batch.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is served.
    Served,
    /// Its own bytes are hit: `Corrupt`, by its name and place.
    Named,
    /// Nothing is left that says where it is: served, or `Corrupt`.
    Untold,
    /// It lies in, or behind, what is hit and nothing proves durable: it may be cut off.
    Unproven,
}

pub(crate) struct Harm<'a> {
    layout: &'a Layout,
    hit: Vec<(String, Range<u64>)>,
}

impl Harm<'_> {
    fn is_hit(&self, file: &str, bytes: &Range<u64>) -> bool {
        self.hit.iter().any(|(hit, range)| hit == file && range.start < bytes.end && bytes.start < range.end)
    }

    fn front_is_hit(&self, placed: &Placed) -> bool {
        self.is_hit(&placed.file, &placed.front())
    }

    fn hits_any_front(&self) -> bool {
        self.layout.groups.iter().any(|placed| self.front_is_hit(placed))
    }

    /// Whether something that is not hit says that the group was durable.
    fn is_proven(&self, of: &Placed) -> bool {
        self.layout.groups.iter().any(|other| {
            let by_group = !self.front_is_hit(other) && other.group.durable_through >= of.group.number;
            let by_header = !self.is_hit(&other.file, &SEGMENT_HEADER);
            if other.segment == of.segment { by_group } else { other.segment > of.segment && (by_group || by_header) }
        })
    }

    /// The first group that is hit and that nothing proves: from there on everything may be cut off.
    fn unproven_from(&self) -> Option<usize> {
        let hit = |placed: &Placed| {
            self.is_hit(&placed.file, &(placed.group.offset..placed.group.offset + placed.group.bytes))
        };
        self.layout.groups.iter().position(|placed| hit(placed) && !self.is_proven(placed))
    }

    fn fate(&self, batch: &Batch, unproven_from: Option<usize>) -> (Fate, &str, &BatchView) {
        let (i, view) = self.layout.place_of(batch);
        let placed = &self.layout.groups[i];
        let bytes = view.offset..view.offset + u64::from(view.bytes);
        let is_told_again = self.layout.groups.get(i + 1).is_some_and(|next| !self.front_is_hit(next));
        let fate = if unproven_from.is_some_and(|from| from <= i) {
            Fate::Unproven
        } else if self.front_is_hit(placed) && !is_told_again {
            Fate::Untold
        } else if self.is_hit(&placed.file, &bytes) {
            Fate::Named
        } else {
            Fate::Served
        };
        (fate, &placed.file, view)
    }

    /// Whether an opened log shows of a harmed disk what it must, batch by batch.
    pub(crate) fn judge(
        &self,
        core: &mut LogCore,
        report: &OpenReport,
        disk: &mut VirtualDisk,
        good: &Model,
    ) -> Result<(), String> {
        let unproven_from = self.unproven_from();
        for (of, batches) in &good.logs {
            let mut missing_from = None;
            for batch in batches {
                let lsn = batch.first_lsn();
                let (fate, file, view) = self.fate(batch, unproven_from);
                core.load_index(disk, *of, lsn);
                let plan = core.plan_read(*of, lsn, 0);
                let read = plan.and_then(|plan| plan.first().map(|extent| extent.read(disk)).transpose());
                if fate != Fate::Served {
                    missing_from.get_or_insert(lsn);
                }
                match (read, fate) {
                    (Ok(Some(read)), fate) if read == *batch && fate != Fate::Named => {}
                    (Ok(None), Fate::Unproven) if core.cuts().iter().any(|cut| cut.log == *of && cut.from <= lsn) => {}
                    (Err(ReadError::Corrupt { log, first, last, file: named, offset }), Fate::Named)
                        if (log, first, last) == (*of, lsn, batch.last_lsn())
                            && (named.as_str(), offset) == (file, view.offset) => {}
                    (Err(ReadError::Corrupt { log, first, last, .. }), Fate::Untold)
                        if log == *of && first <= lsn && batch.last_lsn() <= last => {}
                    (read, fate) => return Err(format!("log {of} at {lsn} must be {fate:?}, and is {read:?}")),
                }
            }
            self.judge_range(core, *of, good, missing_from)?;
        }
        let vow = core.hard_state(log(1), PROMISE);
        // One that was never known can't be named; that the log lost something can.
        let in_doubt =
            report.doubtful_hard_states.contains(&(log(1), PROMISE)) || core.cuts().iter().any(|cut| cut.log == log(1));
        if vow.as_deref() != Some(b"vow") && !(in_doubt && self.hits_any_front()) {
            return Err(format!("the hard state is {vow:?}"));
        }
        Ok(())
    }

    /// What a log says of itself as a whole: no end beyond the true one, no damage and no doubt before what is missing.
    fn judge_range(&self, core: &LogCore, of: LogId, good: &Model, missing_from: Option<Lsn>) -> Result<(), String> {
        let end = good.end(of);
        if core.end(of).lsn > end.lsn {
            return Err(format!("log {of} has grown beyond {end}"));
        }
        let missing_from = missing_from.unwrap_or_else(|| end.lsn.next());
        let damaged = core.damaged(of);
        if let Some((first, last)) = damaged.iter().find(|(first, _)| *first < missing_from) {
            return Err(format!(
                "log {of} calls {first} to {last} damaged, and only from {missing_from} on it is harmed"
            ));
        }
        match core.cuts().iter().find(|cut| cut.log == of && cut.from < missing_from) {
            Some(cut) => Err(format!("log {of} doubts {}, and only from {missing_from} on it is harmed", cut.from)),
            None => Ok(()),
        }
    }
}
