//! What becomes a group: all that waits, up to the bounds; no timer. The group that gathers while the last one is
//! written and synced goes next.

use bytes::Bytes;

use super::index::{Mark, Reached, room_of};
use super::{Content, InFlight, Item, Life, LogCore, Ticket};
use crate::error::{SubmitError, WalError};
use crate::format::batch::Batch;
use crate::format::footer::Footer;
use crate::format::group::{GroupFlags, GroupIdentity, Place, encode_group, front_len};
use crate::format::ids::LogPosition;
use crate::format::layout::{len_u32, round_up};
use crate::format::record::{BatchEntry, Record, repeat_records};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::io::{IoId, IoOp, IoRequest};
use crate::limits::{
    BATCH_BYTES_MAX, BLOCK_BYTES, GROUP_DIRECTORY_BYTES_MAX, GROUP_HEADER_BYTES, GROUPS_IN_FLIGHT_MAX,
};

/// How much of the queue goes into the next group.
#[derive(Clone, Copy)]
pub(super) struct Gathering {
    pub(super) entries: usize,
    pub(super) directory_len: usize,
    pub(super) batches_len: usize,
    pub(super) footer_growth: usize,
    pub(super) closing: bool,
}

impl Gathering {
    const EMPTY: Self = Self { entries: 0, directory_len: 0, batches_len: 0, footer_growth: 0, closing: false };
}

/// A group's parts, in their places.
struct Laid {
    group: InFlight,
    own: Vec<Record>,
    batches: Vec<Bytes>,
    /// The batches again, each with its offset.
    placed: Vec<(u32, Batch)>,
}

/// A batch's record, for the place where it will lie.
fn entry_at(batch: &Batch, offset: u32) -> BatchEntry {
    let end = batch.position();
    BatchEntry {
        log: batch.log(),
        first: batch.first_lsn(),
        last: end.lsn,
        epoch: end.epoch,
        offset,
        len: len_u32(batch.bytes().len()),
        chain: end.chain,
    }
}

/// What the directory and the footer say of a batch, and what is noted when it is written: one that continues its log, or mends it.
fn name(footer: &mut Footer, entry: BatchEntry, before: Option<LogPosition>) -> (Record, Reached) {
    let BatchEntry { last, offset, .. } = entry;
    if let Some(before) = before {
        footer.batch(entry, before);
        (Record::Batch(entry), Reached::Batch { last, offset })
    } else {
        footer.record(&Record::Mended(entry));
        (Record::Mended(entry), Reached::Mended { last, offset })
    }
}

impl LogCore {
    /// Bytes of a group's own directory at most: an eighth of a small segment, so that any group fits one.
    pub(crate) fn directory_bytes_max(segment_bytes: u64) -> usize {
        usize::try_from(segment_bytes / 8).map_or(GROUP_DIRECTORY_BYTES_MAX, |n| n.min(GROUP_DIRECTORY_BYTES_MAX))
    }

    /// Bytes of the largest batch that this log takes: with both directories at their largest and the footer
    /// that they make, it still fits an empty segment.
    #[must_use]
    pub fn batch_bytes_max(&self) -> usize {
        let directory = Self::directory_bytes_max(self.options.segment_bytes);
        let blocks = 5 * usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
        let segment = usize::try_from(self.options.segment_bytes).unwrap_or(usize::MAX);
        segment.saturating_sub(blocks + 4 * directory + GROUP_HEADER_BYTES).min(BATCH_BYTES_MAX)
    }

    /// The next group's write, if there is something to write, and a place for it.
    pub(crate) fn poll_write(&mut self) -> Option<IoRequest> {
        if !self.has_place_in_flight() {
            return None;
        }
        self.reclaim();
        let Some(mut gathering) = self.gather() else {
            if !self.queue.is_empty() {
                self.give_up_closing();
            }
            return None;
        };
        if !self.fits(&gathering) && !self.may_rotate(&gathering) {
            // On a full disk what fits goes: it may be what gives room back.
            gathering = self.gather_within(|g| self.fits(g)).unwrap_or(gathering);
        }
        let only_proves =
            std::mem::take(&mut self.beacon) && gathering.entries == 0 && !self.opening && !gathering.closing;
        if only_proves && !self.fits(&gathering) {
            // Not worth a segment: the next one's header says the same.
            return None;
        }
        if !self.fits(&gathering) {
            if !self.may_rotate(&gathering) || !self.rotate(&gathering) {
                self.give_up_closing();
                return None;
            }
            // With what retires the segment before.
            gathering = self.gather().unwrap_or(gathering);
        }
        self.is_unproven = gathering.entries > 0;
        Some(self.build(&gathering, only_proves))
    }

    /// For a log that was idle for a while: its last group, acknowledged or not, is not known to the files as durable, so if it
    /// rots it looks like one that was never acknowledged. Has a small group written that says that it was; once, until there
    /// is something new. Drivers call this now and then. `false`: there is nothing to prove.
    pub fn prove(&mut self) -> bool {
        let is_idle = self.queue.is_empty() && self.in_flight.is_empty();
        self.beacon = self.is_unproven && is_idle && matches!(self.life, Life::Running) && self.closing.is_none();
        self.beacon
    }

    /// Whether the next request would be a group, if something waited.
    pub(crate) fn may_write(&self) -> bool {
        self.unsynced().is_none() && self.has_place_in_flight()
    }

    /// One write at a time: a group goes behind the one before.
    fn has_place_in_flight(&self) -> bool {
        let in_flight_max = self.options.groups_in_flight.clamp(1, GROUPS_IN_FLIGHT_MAX);
        let has_place = self.in_flight.len() < usize::try_from(in_flight_max).unwrap_or(1);
        has_place && self.in_flight.back().is_none_or(|group| group.writing.is_none())
    }

    /// Entries that wait to be written.
    pub(crate) fn entries_queued(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of what was accepted and is not durable.
    pub(crate) const fn bytes_queued(&self) -> usize {
        self.queue_bytes
    }

    /// Whether something waits to be written, the opening group included.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.opening || !self.queue.is_empty()
    }

    /// Whether this life's first group was built.
    pub(crate) const fn has_begun(&self) -> bool {
        !self.opening
    }

    fn gather(&self) -> Option<Gathering> {
        self.gather_within(|_| true)
    }

    /// What is to become a group, no more of the queue than `fits`.
    fn gather_within(&self, fits: impl Fn(&Gathering) -> bool) -> Option<Gathering> {
        let mut g = Gathering::EMPTY;
        let batches_max = self.options.group_bytes_max.min(self.batch_bytes_max());
        let directory_max = Self::directory_bytes_max(self.options.segment_bytes);
        // The last place between two submissions: one that fits a group is not torn apart, so after a crash all of it is there or
        // nothing. Who cuts a batch in two truncates and writes the first half again, and must not lose that.
        let mut whole = None;
        let takes_batches = self.takes_batches();
        for queued in &self.queue {
            if !takes_batches && matches!(queued.item, Item::Batch { .. }) {
                return whole.or_else(|| self.opening.then_some(Gathering::EMPTY));
            }
            let (directory_len, batch_len) = (queued.item.directory_len(), queued.item.batch_len());
            // A batch above the bound has a group of its own, but for what is said in front of it.
            let over = g.directory_len + directory_len > directory_max
                || (g.batches_len > 0 && g.batches_len + batch_len > batches_max);
            if over && g.entries > 0 {
                return Some(whole.unwrap_or(g));
            }
            g.entries += 1;
            g.directory_len += directory_len;
            g.batches_len += batch_len;
            g.footer_growth += queued.item.footer_growth();
            if queued.ends_unit {
                if whole.is_some() && !fits(&g) {
                    return whole;
                }
                whole = Some(g);
            }
        }
        // The closing group is one of its own, behind everything and synced like any other.
        if g.entries == 0 && !self.opening && self.closing.is_some() && matches!(self.life, Life::Running) {
            g.closing = true;
            g.directory_len = Record::Closing { incarnation: 0 }.encoded_len();
            let waiting = self.in_flight.iter().any(|group| group.closing);
            return (!waiting).then_some(g);
        }
        (g.entries > 0 || self.opening || self.beacon).then_some(g)
    }

    /// Bytes of the group on disk.
    pub(super) fn group_len(&self, gathering: &Gathering) -> u64 {
        let content = front_len(gathering.directory_len, self.repeat.len()) + gathering.batches_len;
        round_up(u64::from(len_u32(content)), BLOCK_BYTES)
    }

    /// Takes the entries off the queue, and lays them out behind what the active segment has.
    fn build(&mut self, gathering: &Gathering, beacon: bool) -> IoRequest {
        let id = self.io_id();
        let group_len = self.group_len(gathering);
        let Laid { group, own, batches, placed } = self.lay_out(gathering, id);
        let repeat = std::mem::replace(&mut self.repeat, repeat_records(&own));
        let Some(active) = self.active.as_mut() else { unreachable!("a group is built only where it fits") };
        let (segment, offset) = (active.header.number, active.offset);
        let identity = GroupIdentity {
            flags: GroupFlags { closing: gathering.closing, beacon, ..GroupFlags::default() },
            place: Place { salt: active.header.salt, segment, offset },
            number: group.number,
            incarnation: self.incarnation,
            durable_through: self.durable_group,
        };
        let (header, mut slices) = encode_group(&identity, &own, &repeat, &batches);
        assert_eq!(u64::from(header.total_len), group_len, "the group has the size for which room was made");
        active.offset += group_len;
        active.last_group = group.number;
        self.next_group += 1;
        self.opening = false;
        self.stats.groups += 1;
        self.stats.batch_bytes += u64::from(header.batches_len);
        self.in_flight.push_back(group);
        self.tail.push(segment, placed);
        // A new segment's header goes out with its first group, in one write.
        if active.content == Content::OldBytes {
            // What is behind the group must not look like a torn one. The block holds nothing, and the next group goes over
            // it; the room of the footer is always left.
            slices.push(crate::io::zeroes(usize::try_from(BLOCK_BYTES).unwrap_or(0)));
        }
        let fresh = offset == u64::from(len_u32(SEGMENT_HEADER_BYTES));
        if fresh {
            slices.insert(0, Bytes::from(active.header.encode()));
        }
        let offset = if fresh { 0 } else { offset };
        self.stats.group_bytes += slices.iter().map(|slice| u64::from(len_u32(slice.len()))).sum::<u64>();
        IoRequest { id, op: IoOp::Write { segment, offset, slices } }
    }

    /// Gives each batch of the next group its place, in the index, the directory and the footer.
    fn lay_out(&mut self, gathering: &Gathering, id: IoId) -> Laid {
        let Some(active) = self.active.as_mut() else { unreachable!("a group is built only where it fits") };
        let segment = active.header.number;
        let front = front_len(gathering.directory_len, self.repeat.len());
        let start = u32::try_from(active.offset).unwrap_or(u32::MAX);
        let mut at = start.saturating_add(len_u32(front));
        let group = InFlight {
            number: self.next_group,
            segment,
            writing: Some(id),
            marks: Vec::with_capacity(gathering.entries),
            tickets: Vec::with_capacity(gathering.entries),
            retires: Vec::new(),
            compacts: false,
            weight: 0,
            closing: gathering.closing,
        };
        let own = Vec::with_capacity(gathering.entries);
        let (batches, placed) = (Vec::with_capacity(gathering.entries), Vec::with_capacity(gathering.entries));
        let mut laid = Laid { group, own, batches, placed };
        for queued in self.queue.drain(..gathering.entries) {
            laid.group.weight += queued.item.weight();
            laid.group.tickets.extend(queued.ticket);
            let (batch, before) = match queued.item {
                Item::Batch { batch, before } => (batch, before),
                Item::Record { record, kills_from } => {
                    active.footer.record(&record);
                    if let Record::Retirement { segment } = record {
                        laid.group.retires.push(segment);
                    }
                    if let Some(from) = kills_from {
                        self.segments.kill(segment, from);
                        if let Some(compaction) = &mut self.compaction {
                            compaction.note_kill(segment, from);
                        }
                    }
                    if let Some(state) = record.log().and_then(|log| self.index.get_mut(log)) {
                        state.place_record(&record, segment);
                    }
                    if let Record::Reset { log, to } = record {
                        laid.group.marks.push(Mark { log, to: Reached::Start(to) });
                    }
                    laid.own.push(record);
                    continue;
                }
                Item::Barrier => continue,
                Item::Compaction => {
                    laid.group.compacts = true;
                    continue;
                }
            };
            let entry = entry_at(&batch, at);
            // A truncation may have overtaken the batch in memory; on disk it follows it.
            let placed = self.index.get_mut(entry.log).and_then(|state| match before {
                Some(_) => state.place(&entry.position(), segment, at),
                None => {
                    state.note_segment(segment);
                    state.mends.place(&entry.position(), segment, at)
                }
            });
            if let Some(before) = placed {
                self.segments.moved(before, segment, room_of(1, u64::from(entry.len)));
            }
            let (record, to) = name(&mut active.footer, entry, before);
            laid.own.push(record);
            laid.group.marks.push(Mark { log: entry.log, to });
            laid.batches.push(batch.bytes().clone());
            laid.placed.push((at, batch));
            at = at.saturating_add(entry.len);
        }
        if gathering.closing {
            laid.own.push(Record::Closing { incarnation: self.incarnation });
            laid.group.tickets.extend(self.closing);
        }
        laid
    }

    /// A full disk must not keep a log from closing: who waits is told.
    fn give_up_closing(&mut self) {
        let Some(closing) = self.closing.filter(|_| self.no_room && self.in_flight.is_empty()) else {
            return;
        };
        let waiting: Vec<Ticket> = self.queue.drain(..).filter_map(|queued| queued.ticket).collect();
        for ticket in waiting {
            // Accepted, and perhaps durable in part: in doubt, not refused.
            self.complete(ticket, Err(WalError::Closed));
        }
        self.complete(closing, Err(SubmitError::DiskFull.into()));
        self.queue_bytes = 0;
        self.life = Life::Closed;
    }

    /// Ends the log in good order: everything accepted becomes durable, then a closing group. Nothing more is
    /// accepted. A log that can't write any more completes this with its error.
    pub fn begin_close(&mut self) -> Ticket {
        if let Some(ticket) = self.closing {
            return ticket;
        }
        let ticket = self.ticket();
        let refused = match &self.life {
            Life::Poisoned(failure) => Some(WalError::Poisoned(failure.clone())),
            Life::Running | Life::Closed => None,
        };
        self.closing = Some(ticket);
        if let Some(error) = refused {
            self.complete(ticket, Err(error));
        }
        ticket
    }
}
