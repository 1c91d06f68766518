//! Where groups go: the active segment, the ones prepared behind it, and what is said of a segment when it is full.

use bytes::Bytes;

use super::gather::Gathering;
use super::{Active, LogCore, Preparation, Preparing, Segment};
use crate::core::Content;
use crate::format::footer::Footer;
use crate::format::layout::len_u32;
use crate::format::segment::{LogFilesEnd, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::io::{IoFailure, IoId, IoOp, IoRequest};
use crate::limits::{FOOTER_BYTES_MAX, SEGMENTS_RESERVED};

impl LogCore {
    /// Whether the group fits the active segment, and a footer behind it.
    pub(super) fn fits(&self, gathering: &Gathering) -> bool {
        self.active.as_ref().is_some_and(|active| {
            let footer = active.footer.room_with(gathering.footer_growth);
            let end = active.offset + self.group_len(gathering);
            footer <= u64::from(len_u32(FOOTER_BYTES_MAX)) && end + footer <= active.header.segment_bytes
        })
    }

    /// Seals the active segment and activates the next. `false`: not yet.
    pub(super) fn rotate(&mut self, gathering: &Gathering) -> bool {
        // The new header names the end of the old segment as proven durable: so it must be.
        if !self.in_flight.is_empty() {
            return false;
        }
        if !self.next_segment_is_ready() {
            return false;
        }
        let full = self.retire_active();
        let fits = self.activate() && self.fits(gathering);
        assert!(fits, "an empty segment holds any group that was accepted");
        if let Some((header, footer)) = full {
            self.end_full(&header, &footer);
        }
        fits
    }

    /// Seals the segment that was the active one; but if it took the last one ready to be where it is, and nothing in it is of
    /// use, the first group of the new one retires it: otherwise a crash would leave neither a segment that is ready, for the
    /// next open, nor a file that may become one.
    fn end_full(&mut self, header: &SegmentHeader, footer: &Footer) {
        let is_dead = self.segments.get(header.number).is_some_and(Segment::is_dead);
        if self.no_room && is_dead && !self.next_segment_is_ready() {
            self.reclaim_due = true;
            self.reclaim();
            if self.segments.get(header.number).is_some_and(|segment| segment.retiring) {
                return;
            }
        }
        self.seal(header, footer, Vec::new());
    }

    /// Segments ahead that batches leave to others on a full disk.
    pub(super) fn segments_reserved(&self) -> usize {
        usize::try_from(SEGMENTS_RESERVED.min(self.options.segments_ahead.max(1) - 1)).unwrap_or(0)
    }

    /// Whether batches are written now: a segment of the reserve is given up with the life that used it, and must hold nothing
    /// that is needed longer.
    pub(super) fn takes_batches(&self) -> bool {
        !self.no_room || self.ready.len() >= self.segments_reserved()
    }

    /// Whether a group may go to the next segment.
    pub(super) fn may_rotate(&self, gathering: &Gathering) -> bool {
        let takes_reserve = self.no_room && self.ready.len() <= self.segments_reserved();
        self.next_segment_is_ready() && (gathering.batches_len == 0 || !takes_reserve || self.segments_reserved() == 0)
    }

    /// Whether the active segment, once it is full, leaves a file behind for one that is ready, or another is ready.
    pub(super) fn may_give_room_in_the_next(&self) -> bool {
        let active = self.active.as_ref().and_then(|active| self.segments.get(active.header.number));
        self.next_segment_is_ready() && (self.ready.len() > 1 || active.is_some_and(Segment::is_dead))
    }

    /// At an open, before its first group: the seal of the newest segment, if nothing in it is of use. That group may retire it.
    pub(crate) fn hold_seal_of_newest(&mut self) -> Option<IoRequest> {
        let newest = self.end.segment;
        self.segments.get(newest).filter(|segment| segment.is_dead())?;
        let held = |seal: &IoRequest| matches!(seal.op, IoOp::Seal { segment, .. } if segment == newest);
        let held = self.seals.iter().position(held).and_then(|i| self.seals.remove(i))?;
        self.sealing.remove(&held.id);
        Some(held)
    }

    /// It was not retired.
    pub(crate) fn put_seal_back(&mut self, held: IoRequest) {
        let IoOp::Seal { segment, .. } = held.op else { return };
        if self.segments.get(segment).is_some_and(|segment| !segment.retiring) {
            self.sealing.insert(held.id, segment);
            self.seals.push_back(held);
        }
    }

    /// At an open, before its first group: a footer, so that a segment of the reserve behind it may go with that group. Of the
    /// newest segment it waits for the group, which says what it wipes out; of others a later one has said it.
    pub(crate) fn poll_seal_of_old(&mut self) -> Option<IoRequest> {
        let is_said = |number: u64| {
            let next = self.segments.iter().find(|(next, _)| *next > number);
            next.is_some_and(|(_, segment)| segment.last_group >= segment.first_group)
        };
        let of = |seal: &IoRequest| match &seal.op {
            IoOp::Seal { segment, .. } => Some(*segment),
            IoOp::ConfirmFooter(request) => Some(request.segment),
            _ => None,
        };
        let old = self.seals.iter().position(|seal| of(seal).is_some_and(is_said))?;
        self.seals.remove(old)
    }

    pub(crate) fn next_segment_is_ready(&self) -> bool {
        self.ready.contains_key(&(self.last_segment() + 1))
    }

    /// The segment to which groups go, or went last.
    pub(super) fn last_segment(&self) -> u64 {
        self.active.as_ref().map_or(self.end.segment, |active| active.header.number)
    }

    /// The active segment is one no more; what its footer says.
    fn retire_active(&mut self) -> Option<(SegmentHeader, Footer)> {
        let mut active = self.active.take()?;
        let (group, offset) = (active.last_group, active.offset);
        self.end = LogFilesEnd { segment: active.header.number, group, offset };
        (active.footer.last_group, active.footer.end) = (group, offset);
        if let Some(segment) = self.segments.get_mut(active.header.number) {
            segment.last_group = group;
        }
        Some((active.header, active.footer))
    }

    pub(super) fn seal(&mut self, header: &SegmentHeader, footer: &Footer, wipe: Vec<u64>) {
        let (offset, bytes) = footer.encode(header);
        assert!(offset >= footer.end, "rotation leaves room for the footer");
        let id = self.io_id();
        self.sealing.insert(id, header.number);
        let op = IoOp::Seal { segment: header.number, offset, slices: vec![Bytes::from(bytes)], wipe };
        self.seals.push_back(IoRequest { id, op });
    }

    /// Makes the next ready segment the active one. Its header is written with its first group.
    pub(crate) fn activate(&mut self) -> bool {
        let number = self.end.segment + 1;
        let Some(content) = self.ready.remove(&number) else {
            return false;
        };
        let (salt, first_group, incarnation) = (self.salt(), self.next_group, self.incarnation);
        self.segments
            .insert(number, Segment { salt, first_group, bytes: self.options.segment_bytes, ..Segment::default() });
        let header = SegmentHeader {
            directory: self.directory,
            number,
            first_group,
            salt,
            predecessor: self.end,
            incarnation,
            segment_bytes: self.options.segment_bytes,
            live: self.segments.ranges(),
            sources: Vec::new(),
        };
        let offset = u64::from(len_u32(SEGMENT_HEADER_BYTES));
        self.active = Some(Active { header, content, offset, last_group: self.end.group, footer: Footer::default() });
        self.stats.rotations += 1;
        true
    }

    /// A salt that no earlier activation had: the seed is unpredictable, the steps don't repeat.
    pub(super) fn salt(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
        self.salts = self.salts.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.salts;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Prepares segments ahead, in the background, so that rotation waits for none: of files that held retired
    /// segments, and of new ones.
    pub(crate) fn poll_preparation(&mut self) -> Option<IoRequest> {
        if self.preparing.is_some() || matches!(self.life, super::Life::Closed) {
            return None;
        }
        let what = self.next_preparation()?;
        let id = self.io_id();
        self.preparing = Some(Preparing { id, what });
        let op = match what {
            Preparation::Create { segment } => IoOp::CreateSegment { segment, bytes: self.options.segment_bytes },
            Preparation::Recycle { from, to } => IoOp::RecycleSegment { from, to },
            Preparation::Discard { segment } => IoOp::DiscardSegment { segment },
        };
        Some(IoRequest { id, op })
    }

    fn next_preparation(&mut self) -> Option<Preparation> {
        let ahead = usize::try_from(self.options.segments_ahead.max(1)).unwrap_or(1);
        let next = (self.last_segment() + 1..).find(|n| !self.ready.contains_key(n))?;
        if let Some(spare) = self.spare.front().filter(|_| !self.spares_wait) {
            let segment = spare.segment;
            let recycled = spare.is_whole && self.ready.len() < ahead + SEGMENTS_RECYCLED_MAX;
            return Some(if recycled {
                Preparation::Recycle { from: segment, to: next }
            } else {
                Preparation::Discard { segment }
            });
        }
        let wanted = self.ready.len() < ahead || !self.next_segment_is_ready();
        if !wanted || (self.no_room && !self.retry_preparation) {
            return None;
        }
        self.retry_preparation = false;
        Some(Preparation::Create { segment: next })
    }

    /// Whether an open that crashes may leave none for the next.
    pub(crate) fn is_short_of_segments(&self) -> bool {
        self.ready.len() <= self.segments_reserved()
    }

    /// What the file system says of its room, so that the first batches don't take the reserve before that is tried.
    pub(crate) fn note_free_bytes(&mut self, free: u64) {
        self.no_room |= self.ready.len() < self.segments_reserved() && free < self.options.segment_bytes;
    }

    /// Looks for room again, after a preparation found none. Drivers call this now and then; a refused
    /// submission does as well.
    pub fn retry_preparation(&mut self) {
        self.retry_preparation = self.no_room;
        self.spares_wait = false;
    }

    /// `Some`: the result of the preparation under way; `Err` if it fails in a way that is not a full disk.
    pub(super) fn on_preparation(&mut self, id: IoId, result: &Result<(), IoFailure>) -> Option<Result<(), IoFailure>> {
        let Preparing { what, .. } = self.preparing.take_if(|preparing| preparing.id == id)?;
        match result {
            Ok(()) => self.on_prepared(what),
            Err(failure) if failure.is_no_space() || failure.is_refusal() => {
                self.no_room = true;
                self.spares_wait = !matches!(what, Preparation::Create { .. });
            }
            Err(failure) => return Some(Err(failure.clone())),
        }
        Some(Ok(()))
    }

    fn on_prepared(&mut self, what: Preparation) {
        let gone = match what {
            Preparation::Create { segment } => {
                self.ready.insert(segment, Content::Zeroes);
                None
            }
            Preparation::Recycle { from, to } => {
                self.ready.insert(to, Content::OldBytes);
                Some(from)
            }
            Preparation::Discard { segment } => Some(segment),
        };
        let had_no_room = self.no_room;
        // Room for one of the reserve is none for batches.
        (self.no_room, self.spares_wait) = (had_no_room && self.ready.len() < self.segments_reserved(), false);
        if let Some(gone) = gone {
            self.spare.pop_front();
            self.segments.forget_victim(gone);
        }
        // What outlived these files may go, and what had no certain room to be said again. Once for many: a look takes as long as
        // there are segments.
        self.reclaim_due |= had_no_room || self.spare.is_empty();
    }
}

/// Segments kept ready of retired ones, beyond those that are prepared anyway: a burst of releases is room for a burst of
/// writes.
const SEGMENTS_RECYCLED_MAX: usize = 2;
