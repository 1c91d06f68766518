//! A directory, read and judged: which files are whose, what each segment holds. Nothing is written here.

use std::collections::{BTreeMap, BTreeSet};

use super::numbers::Numbers;
use super::replay::Replay;
use super::scan::{Bound, Image, ScanResult, Scanned, scan};
use super::table::{SegmentEvidence, SegmentRow, SegmentSeen, segment_row};
use crate::core::{Segment, Spare};
use crate::error::OpenError;
use crate::format::footer::{Footer, Summary, TRAILER_BYTES, Trailer};
use crate::format::group::GroupHeader;
use crate::format::layout::len_u32;
use crate::format::manifest::{MANIFEST_BYTES, MANIFEST_NAME, MANIFEST_UNREADY_NAME, MANIFEST_VERSION};
use crate::format::manifest::{Manifest, ManifestFault};
use crate::format::record::{BatchEntry, Record, repeat_records};
use crate::format::segment::{LogFilesEnd, SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentHeader, SegmentHeaderFault};
use crate::io::names::marked;
use crate::io::{Io, IoFailure, is_unready_name, read_exact, segment_name, segment_number};
use crate::limits::{BLOCK_BYTES, GROUP_HEADER_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MISSING_MAX};

/// Who reads, and what that allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Makes the files settle before it reads, and writes over what it takes for nothing: so it takes for nothing what it
    /// could read.
    Owner,
    /// The same, but for that it is asked to give up what can't be read.
    Repairer,
    /// Changes nothing, and may be beside a writer.
    Guest,
}

/// What stands in a directory.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) manifest: Manifest,
    reader: Reader,
    pub(crate) replay: Replay,
    /// Activated segments' headers.
    pub(crate) headers: BTreeMap<u64, SegmentHeader>,
    pub(crate) live: BTreeSet<u64>,
    /// Segments with room and no content.
    pub(crate) ready: BTreeSet<u64>,
    /// Files of retired segments.
    pub(crate) spare: Vec<Spare>,
    /// What was found in the newest segments, before they are replayed.
    scans: BTreeMap<u64, ScanResult>,
    /// The first segment that is known batch by batch, as far as footers decide that.
    exact_from: u64,
    /// The group in the first of the ready ones that claims most to be durable. If it is right, the segment counts, and
    /// its header and its first group are lost.
    claim: Option<GroupHeader>,
    /// Why some of it could not be read, if so.
    unreadable: Option<IoFailure>,
    /// What could not be read of others, where it decides what the log holds.
    unread: Vec<IoFailure>,
    /// Segments that were never activated and lack their room: they are made anew in their place, and until then their
    /// names tell that nothing is missing there.
    unfit: BTreeSet<u64>,
    /// Files that a crash left half made.
    pub(crate) leftovers: Vec<String>,
    /// Names that no sync vouches for, as far as the lives before tell.
    pub(crate) unsynced: Vec<String>,
    pub(crate) end: LogFilesEnd,
    pub(crate) repeat: Vec<u8>,
    /// Footers of segments that have none, and of which nothing is damaged. With each, the blocks behind the end that look like groups.
    pub(crate) unsealed: Vec<(SegmentHeader, Footer, Vec<u64>)>,
}

/// Reads the manifest; `None`: there is none.
pub(crate) fn read_manifest(io: &mut dyn Io, expected: Option<[u8; 16]>) -> Result<Option<Manifest>, OpenError> {
    let names = io.list()?;
    if !names.iter().any(|name| name == MANIFEST_NAME) {
        if names.iter().any(|name| segment_number(name).is_some()) {
            return Err(OpenError::Manifest { why: "is missing, though there are segments" });
        }
        return Ok(None);
    }
    if io.len(MANIFEST_NAME)? != 64 {
        return Err(OpenError::Manifest { why: "has the wrong size" });
    }
    let bytes = read_exact(io, MANIFEST_NAME, 0, MANIFEST_BYTES)?;
    let manifest = match Manifest::decode(&bytes) {
        Ok(manifest) => manifest,
        Err(ManifestFault::Damaged) => return Err(OpenError::Manifest { why: "is damaged" }),
        Err(ManifestFault::Newer(found)) => {
            return Err(OpenError::NewerFormat { file: MANIFEST_NAME.to_owned(), found, known: MANIFEST_VERSION });
        }
    };
    let in_bounds = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&manifest.segment_bytes);
    if !in_bounds || !manifest.segment_bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(OpenError::Manifest { why: "names a segment size out of bounds" });
    }
    match expected.filter(|expected| *expected != manifest.directory) {
        Some(expected) => Err(foreign(MANIFEST_NAME, &manifest.directory, &expected)),
        None => Ok(Some(manifest)),
    }
}

fn foreign(file: &str, found: &[u8; 16], expected: &[u8; 16]) -> OpenError {
    let hex = |uuid: &[u8; 16]| uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    OpenError::ForeignDirectory { file: file.to_owned(), found: hex(found), expected: hex(expected) }
}

/// Reads everything; of at most about `batches_max` batches all that is known of each.
pub(crate) fn survey(
    io: &mut dyn Io,
    manifest: Manifest,
    reader: Reader,
    batches_max: u64,
) -> Result<Survey, OpenError> {
    let names = io.list()?;
    let numbers: BTreeSet<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    let half_made = |name: &&String| is_unready_name(name) || *name == MANIFEST_UNREADY_NAME;
    let leftovers = names.iter().filter(half_made).cloned().collect();
    let unsynced = names.iter().filter_map(|name| marked(name)).collect();
    let mut survey = Survey {
        manifest,
        reader,
        replay: Replay::new(manifest),
        headers: BTreeMap::new(),
        live: BTreeSet::new(),
        ready: BTreeSet::new(),
        spare: Vec::new(),
        scans: BTreeMap::new(),
        exact_from: 0,
        claim: None,
        unfit: BTreeSet::new(),
        unreadable: None,
        unread: Vec::new(),
        leftovers,
        unsynced,
        end: LogFilesEnd::default(),
        repeat: Vec::new(),
        unsealed: Vec::new(),
    };
    let first_look = headers(io, &numbers, &manifest)?;
    let last = first_look.iter().rev().find(|(_, seen)| seen.is_ok()).map_or(0, |(number, _)| *number);
    if reader != Reader::Guest {
        // A cache may hold what an earlier life failed to sync; from here on the medium speaks for itself.
        for number in numbers.range(last..) {
            io.settle(&segment_name(*number))?;
        }
    }
    let mut seen = headers(io, &numbers, &manifest)?;
    survey.set_aside(io, &mut seen)?;
    survey.judge_headers(io, seen)?;
    survey.scan_newest(io)?;
    survey.find_missing()?;
    survey.bound_index(io, batches_max);
    survey.read_segments(io)?;
    survey.judge_unread()?;
    survey.replay.finish();
    Ok(survey)
}

type HeaderSeen = Result<SegmentHeader, SegmentSeen>;

/// All headers. A foreign or newer one refuses the whole directory.
fn headers(
    io: &mut dyn Io,
    numbers: &BTreeSet<u64>,
    manifest: &Manifest,
) -> Result<BTreeMap<u64, HeaderSeen>, OpenError> {
    let mut headers = BTreeMap::new();
    for number in numbers {
        let name = segment_name(*number);
        let mut read = || Ok(SegmentHeader::decode(&read_exact(io, &name, 0, SEGMENT_HEADER_BYTES)?));
        let seen = match read() {
            // What flips on the way is not damage.
            Ok(Err(SegmentHeaderFault::Bad)) => read(),
            seen => seen,
        };
        let seen = match seen {
            // It says nothing about the file.
            Err(failure) if IoFailure::is_refusal(&failure) => return Err(failure.into()),
            Ok(Ok(header)) if header.directory != manifest.directory => {
                return Err(foreign(&name, &header.directory, &manifest.directory));
            }
            Ok(Ok(header)) if header.number == *number && header.segment_bytes == manifest.segment_bytes => Ok(header),
            Ok(Err(SegmentHeaderFault::Newer(found))) => {
                return Err(OpenError::NewerFormat { file: name, found, known: SEGMENT_VERSION });
            }
            Ok(Ok(_) | Err(SegmentHeaderFault::Blank)) => Err(SegmentSeen::BlankOrOld),
            Ok(Err(SegmentHeaderFault::Bad)) | Err(_) => Err(SegmentSeen::Bad),
        };
        headers.insert(*number, seen);
    }
    Ok(headers)
}

impl Survey {
    /// What could not be read may have been acknowledged: whoever writes refuses, before it is written over or its loss
    /// becomes the truth.
    fn judge_unread(&mut self) -> Result<(), OpenError> {
        self.unread.extend(self.replay.refused.take());
        let decides = |failure: &&IoFailure| self.reader == Reader::Owner || failure.is_refusal();
        if let Some(failure) = self.unread.iter().find(decides).filter(|_| self.reader != Reader::Guest) {
            return Err(OpenError::Io(failure.clone()));
        }
        self.replay.report.unread = std::mem::take(&mut self.unread);
        Ok(())
    }

    /// The newest header that says which segments were live when its own was activated.
    fn newest(&self) -> Option<&SegmentHeader> {
        self.headers.values().rev().find(|header| !header.live.is_empty())
    }

    /// What the newest header does not list, below its own number, was retired before; that number, 0 without a header.
    fn retire_unlisted(&mut self) -> u64 {
        let Some((number, live)) = self.newest().map(|header| (header.number, header.live.clone())) else { return 0 };
        let mut listed = Numbers::default();
        live.iter().for_each(|(first, last)| listed.insert_range(*first, *last));
        let unlisted = listed.ranges_outside(1, number.saturating_sub(1));
        unlisted.for_each(|(first, last)| self.replay.retired.insert_range(first, last));
        number
    }

    /// Sets files aside that no longer count: of segments retired before the newest one was activated, and of those that a
    /// compacted segment stands for.
    fn set_aside(&mut self, io: &mut dyn Io, seen: &mut BTreeMap<u64, HeaderSeen>) -> Result<(), OpenError> {
        let valid: Vec<&SegmentHeader> = seen.values().filter_map(|seen| seen.as_ref().ok()).collect();
        let mut gone: BTreeSet<u64> =
            valid.iter().flat_map(|header| header.sources.iter().copied().filter(|n| *n != header.number)).collect();
        if let Some(newest) = valid.iter().rev().find(|header| !header.live.is_empty()) {
            let live = |number: u64| newest.live.iter().any(|(first, last)| (*first..=*last).contains(&number));
            gone.extend(seen.keys().filter(|number| **number < newest.number && !live(**number)));
        }
        for number in gone {
            self.replay.retired.insert(number);
            if seen.remove(&number).is_some() {
                self.spare(io, number)?;
            }
        }
        Ok(())
    }

    fn spare(&mut self, io: &mut dyn Io, segment: u64) -> Result<(), OpenError> {
        let is_whole = io.len(&segment_name(segment))? == self.manifest.segment_bytes;
        self.spare.push(Spare { segment, is_whole });
        Ok(())
    }

    /// Scans the segments from the newest header on that tells what is live, or all of them if none does: their records
    /// tell what was retired since.
    fn scan_newest(&mut self, io: &mut dyn Io) -> Result<(), OpenError> {
        let newest = self.retire_unlisted();
        let numbers: Vec<u64> = self.headers.range(newest..).map(|(number, _)| *number).collect();
        let last = self.headers.keys().next_back().copied();
        let mut end = 0;
        for number in numbers {
            let Some(mut header) = self.headers.get(&number).cloned() else { continue };
            if header.predecessor == LogFilesEnd::default() && header.live.is_empty() {
                header.first_group = end + 1;
            }
            let image = Image::read(io, number, self.manifest.segment_bytes)?;
            let result = self.scan(io, &image, &header, self.bound(number))?;
            end = result.last_group;
            self.unread.extend(result.unread.clone().filter(|_| last != Some(number)));
            let gone = result.scanned.iter().flat_map(retired);
            gone.for_each(|(first, last)| self.replay.retired.insert_range(first, last));
            // One is in memory at a time: the others have footers, or are read again.
            if last == Some(number) {
                self.scans.insert(number, result);
            }
        }
        let gone: Vec<u64> =
            self.live.iter().filter(|number| self.replay.retired.contains(**number)).copied().collect();
        for number in gone {
            self.live.remove(&number);
            if self.headers.remove(&number).is_some() {
                self.spare(io, number)?;
            }
        }
        let retired = &self.replay.retired;
        self.replay.report.segments_missing.retain(|number| !retired.contains(*number));
        Ok(())
    }

    /// Scans a segment's image.
    ///
    /// An image is read piece by piece. Beside a writer a piece may lack groups that were written while it was read, and the
    /// next one have groups that prove them durable: what a guest finds wrong is looked at again. All that the first image
    /// knows of was written before the second one is read, so up to there what is wrong is wrong.
    pub(crate) fn scan(
        &self,
        io: &mut dyn Io,
        image: &Image,
        header: &SegmentHeader,
        bound: Bound,
    ) -> Result<ScanResult, OpenError> {
        let first = scan(image, header, bound)?;
        if self.reader != Reader::Guest {
            return if first.is_bad() { self.scan_again(io, first, header, bound) } else { Ok(first) };
        }
        if bound.is_sealed || first.findings.iter().all(|finding| finding.row.is_end()) {
            return Ok(first);
        }
        let again = Image::read(io, header.number, self.manifest.segment_bytes)?;
        let second = scan(&again, header, bound)?;
        if second.findings == first.findings {
            return Ok(first);
        }
        scan(&again.up_to(image.groups_end(header)), header, bound)
    }

    /// Before the owner believes that something is torn or damaged, which it makes the truth: a second look at the medium. What
    /// flips on the way, once, is not damage.
    fn scan_again(
        &self,
        io: &mut dyn Io,
        first: ScanResult,
        header: &SegmentHeader,
        bound: Bound,
    ) -> Result<ScanResult, OpenError> {
        io.settle(&segment_name(header.number))?;
        let again = Image::read(io, header.number, self.manifest.segment_bytes)?;
        Ok(first.better(scan(&again, header, bound)?))
    }

    /// Whether a writer gave the segment's file up since: what it held that is still a log's is elsewhere.
    pub(crate) fn is_gone(&self, io: &mut dyn Io, number: u64) -> Result<bool, OpenError> {
        if self.reader != Reader::Guest {
            return Ok(false);
        }
        // What is open may be the file that had the name.
        io.look_again();
        let name = segment_name(number);
        if !io.list()?.contains(&name) {
            return Ok(true);
        }
        // A compacted one has the number of the first that it stands for, and another salt.
        let header = read_exact(io, &name, 0, SEGMENT_HEADER_BYTES).map(|block| SegmentHeader::decode(&block));
        let known = self.replay.segments.get(number).map(|segment| segment.salt);
        Ok(matches!(header, Ok(Ok(header)) if header.number == number && Some(header.salt) != known))
    }

    /// What later headers tell of a segment.
    pub(crate) fn bound(&self, number: u64) -> Bound {
        let Some((_, next)) = self.headers.range(number + 1..).next() else { return Bound::default() };
        let named = next.predecessor.segment;
        let sources = self.headers.get(&number).map_or(&[][..], |header| &header.sources);
        let is_named = named == number || sources.contains(&named);
        Bound { last_group: is_named.then_some(next.predecessor.group), is_sealed: true }
    }

    /// Decides which segments are known batch by batch: the newest, as far as the bound goes.
    fn bound_index(&mut self, io: &mut dyn Io, batches_max: u64) {
        let mut batches = 0_u64;
        for number in self.headers.keys().rev() {
            let trailer = read_trailer(io, *number, &self.manifest);
            batches = batches.saturating_add(trailer.map_or(0, |(trailer, _)| trailer.batches()));
            if batches > batches_max {
                self.exact_from = number + 1;
                return;
            }
        }
    }

    /// The table of segment headers, for each segment.
    fn judge_headers(&mut self, io: &mut dyn Io, seen: BTreeMap<u64, HeaderSeen>) -> Result<(), OpenError> {
        let mut free = BTreeSet::new();
        // From the newest on: one that was activated proves that those before it had been.
        for (number, seen) in seen.into_iter().rev() {
            let sealed = !self.live.is_empty();
            let (state, header) = match seen {
                Ok(header) => (SegmentSeen::Valid, Some(header)),
                Err(state) => (state, None),
            };
            let mut copy = None;
            let mut first = None;
            if header.is_none() {
                is_not_refused(io, number)?;
                copy = read_summary(io, number, &self.manifest).map(|(_, summary)| summary.header);
                first = first_group(io, number).ok().flatten();
                if sealed && copy.is_none() && first.is_none() {
                    first = Image::read(io, number, self.manifest.segment_bytes)?.own_groups(number).next();
                }
            }
            let evidence = SegmentEvidence { seen: state, sealed, copy: copy.is_some(), groups: first.is_some() };
            let header = match segment_row(&evidence) {
                SegmentRow::Use => header,
                SegmentRow::UseCopy => copy,
                SegmentRow::Rebuild => first.map(|group| self.rebuilt(number, &group)),
                SegmentRow::Damaged => None,
                SegmentRow::Free => {
                    free.insert(number);
                    continue;
                }
            };
            self.replay.report.headers_rebuilt += u64::from(state != SegmentSeen::Valid && header.is_some());
            match header {
                Some(header) => {
                    self.headers.insert(number, header);
                }
                None => self.replay.report.segments_missing.push(number),
            }
            self.live.insert(number);
        }
        free.into_iter().try_for_each(|number| self.free(io, number))
    }

    fn rebuilt(&self, number: u64, group: &GroupHeader) -> SegmentHeader {
        SegmentHeader {
            directory: self.manifest.directory,
            number,
            first_group: group.number,
            salt: group.salt,
            predecessor: if group.offset == u64::from(len_u32(SEGMENT_HEADER_BYTES)) {
                // The group before was durable when this segment was activated; where it ended, its own segment tells.
                LogFilesEnd { segment: number.saturating_sub(1), group: group.number.saturating_sub(1), offset: 0 }
            } else {
                // Which group was the first, the segment before tells by its end.
                LogFilesEnd::default()
            },
            incarnation: group.incarnation,
            segment_bytes: self.manifest.segment_bytes,
            live: Vec::new(),
            sources: Vec::new(),
        }
    }

    fn free(&mut self, io: &mut dyn Io, number: u64) -> Result<(), OpenError> {
        let name = segment_name(number);
        let whole = io.len(&name)? == self.manifest.segment_bytes;
        // Only the next in line can have been written to, by an activation.
        if self.ready.is_empty() && self.claim.is_none() {
            let image = Image::read(io, number, self.manifest.segment_bytes)?;
            self.claim = image.own_groups(number).max_by_key(|group| group.durable_through);
            self.unreadable = image.unreadable();
        }
        if whole {
            self.ready.insert(number);
        } else {
            self.unfit.insert(number);
        }
        Ok(())
    }

    /// What the newest header says is live must be there, or a neighbour must tell what is lost.
    fn find_missing(&mut self) -> Result<(), OpenError> {
        let live: Vec<(u64, u64)> = self.newest().map_or_else(Vec::new, |header| header.live.clone());
        for number in live.into_iter().flat_map(|(first, last)| self.replay.retired.outside(first, last)) {
            if !self.live.insert(number) {
                continue;
            }
            if self.replay.report.segments_missing.len() >= SEGMENTS_MISSING_MAX {
                return Err(OpenError::Missing { segment: number });
            }
            self.replay.report.segments_missing.push(number);
        }
        // Segments are made in their order: one that is ready proves that those before it had been there.
        let made: BTreeSet<u64> = self.ready.union(&self.unfit).copied().collect();
        for (made, expected) in made.into_iter().zip(self.live.last().map_or(1, |last| last + 1)..) {
            if made != expected {
                return Err(OpenError::Missing { segment: expected });
            }
        }
        self.replay.report.segments_missing.sort_unstable();
        let missing = self.replay.report.segments_missing.clone();
        for number in missing {
            let next = self.replay.retired.next_outside(number.saturating_add(1));
            if !next.is_some_and(|next| self.headers.contains_key(&next)) {
                return Err(OpenError::Missing { segment: number });
            }
        }
        Ok(())
    }

    fn read_segments(&mut self, io: &mut dyn Io) -> Result<(), OpenError> {
        let numbers: Vec<u64> = self.live.iter().copied().collect();
        self.replay.report.segments = u64::try_from(self.headers.len()).unwrap_or(u64::MAX);
        for (i, number) in numbers.iter().copied().enumerate() {
            let Some(mut header) = self.headers.get(&number).cloned() else {
                self.replay.segments.insert(number, Segment { is_damaged: true, last_group: 1, ..Segment::default() });
                self.replay.lose_unknown();
                self.replay.doubt_hard_states();
                continue;
            };
            if header.predecessor == LogFilesEnd::default() {
                header.first_group = self.end.group + 1;
            }
            self.judge_hole(&header)?;
            let begins_a_life = header.incarnation > self.replay.incarnation && self.replay.incarnation > 0;
            self.replay.is_opening |= begins_a_life;
            self.replay.is_telling &= !begins_a_life;
            self.replay.incarnation(header.incarnation, number, 0)?;
            let bound = self.bound(number);
            self.replay.segments.insert(
                number,
                Segment {
                    salt: header.salt,
                    first_group: header.first_group,
                    bytes: io.len(&segment_name(number))?,
                    compacted: !header.sources.is_empty(),
                    ..Segment::default()
                },
            );
            // A lost group is named by the next one itself; a footer does not repeat that.
            if bound.is_sealed && !self.replay.has_lost() && self.take_footer(io, &header, bound) {
                continue;
            }
            let result = match self.scans.remove(&number) {
                Some(result) => result,
                None => {
                    let image = Image::read(io, number, self.manifest.segment_bytes)?;
                    // The next one is read while this one is checked.
                    let next = numbers.get(i + 1).filter(|next| !self.scans.contains_key(next));
                    if let Some(next) = next.filter(|next| read_trailer(io, **next, &self.manifest).is_none()) {
                        io.begin_read(&segment_name(*next), self.manifest.segment_bytes);
                    }
                    self.scan(io, &image, &header, bound)?
                }
            };
            self.take_scan(io, header, result, begins_a_life)?;
        }
        if let Some(claim) = self.claim.filter(|claim| claim.durable_through > self.end.group) {
            self.take_claimed(io, &claim)?;
        } else if let Some(failure) = self.unreadable.take() {
            // What can't be read may hold what was acknowledged: it is not written over.
            return Err(OpenError::Io(failure));
        }
        self.repeat = repeat_records(&self.replay.last_own);
        Ok(())
    }

    /// Takes a sealed segment by its footer, if that is good.
    fn take_footer(&mut self, io: &mut dyn Io, header: &SegmentHeader, bound: Bound) -> bool {
        let number = header.number;
        let Some((trailer, summary)) = read_summary(io, number, &self.manifest) else { return false };
        let whole = bound.last_group.is_none_or(|last| last == summary.last_group);
        if summary.header.salt != header.salt || !whole {
            return false;
        }
        let exact = number >= self.exact_from;
        let offsets = if exact { read_offsets(io, number, &trailer, &summary) } else { None };
        if exact && offsets.is_none() {
            return false;
        }
        self.scans.remove(&number);
        self.replay.report.segments_by_footer += 1;
        self.replay.summary(io, number, &summary, offsets);
        self.end = LogFilesEnd { segment: number, group: summary.last_group, offset: summary.end };
        if let Some(segment) = self.replay.segments.get_mut(number) {
            (segment.last_group, segment.footer_was_found) = (summary.last_group, true);
            // A compacted one was synced before it had its name.
            segment.has_footer = segment.compacted;
        }
        true
    }

    /// A header that was rebuilt does not say which segments are live. A hole in the numbers of groups does.
    fn judge_hole(&mut self, header: &SegmentHeader) -> Result<(), OpenError> {
        if !header.live.is_empty() || header.first_group <= self.end.group + 1 {
            return Ok(());
        }
        let between = self.end.segment + 1..header.number;
        let retired = self.replay.retired.clone();
        let mut untold = retired.outside(between.start, between.end.saturating_sub(1)).peekable();
        if !between.is_empty() && untold.peek().is_none() {
            return Ok(());
        }
        self.replay.lose_unknown();
        self.replay.doubt_hard_states();
        for number in untold {
            if self.headers.contains_key(&number) {
                continue;
            }
            if self.replay.report.segments_missing.contains(&number) {
                continue;
            }
            if self.replay.report.segments_missing.len() >= SEGMENTS_MISSING_MAX {
                return Err(OpenError::Missing { segment: number });
            }
            self.replay.report.segments_missing.push(number);
        }
        Ok(())
    }

    /// The segment that seemed free holds groups that were durable.
    fn take_claimed(&mut self, io: &mut dyn Io, claim: &GroupHeader) -> Result<(), OpenError> {
        let number = claim.segment;
        self.ready.remove(&number);
        self.unfit.remove(&number);
        let header =
            SegmentHeader { first_group: self.end.group + 1, predecessor: self.end, ..self.rebuilt(number, claim) };
        self.headers.insert(number, header.clone());
        self.live.insert(number);
        self.replay.report.headers_rebuilt += 1;
        self.replay.report.segments += 1;
        let image = Image::read(io, number, self.manifest.segment_bytes)?;
        let result = self.scan(io, &image, &header, Bound::default())?;
        let (salt, first_group) = (header.salt, header.first_group);
        let bytes = header.segment_bytes;
        let segment = Segment { salt, first_group, bytes, ..Segment::default() };
        self.replay.segments.insert(number, segment);
        // The one before it is not the last: what seemed torn there is damage, and may be all by which the segment is known.
        self.unsealed.retain(|(header, ..)| tells_its_end(header));
        self.take_scan(io, header, result, false)
    }

    fn take_scan(
        &mut self,
        io: &mut dyn Io,
        header: SegmentHeader,
        mut result: ScanResult,
        begins_a_life: bool,
    ) -> Result<(), OpenError> {
        let number = header.number;
        self.unread.extend(result.unread.take());
        // A life's first group names what its open dropped: without it, that is known no more.
        result.cut |= begins_a_life && result.last_group < header.first_group;
        self.replay.scanned(io, number, result.scanned)?;
        let damaged = result.findings.iter().any(|finding| !finding.row.is_end());
        self.replay.report.findings.extend(result.findings);
        self.replay.report.groups_dropped += result.groups_dropped;
        let is_last = self.headers.range(number + 1..).next().is_none();
        if result.cut && is_last {
            self.replay.cut(result.cut_records.as_deref());
        }
        self.end = LogFilesEnd { segment: number, group: result.last_group, offset: result.end };
        let mut footer = std::mem::take(&mut self.replay.footer);
        (footer.last_group, footer.end) = (result.last_group, result.end);
        if let Some(segment) = self.replay.segments.get_mut(number) {
            (segment.last_group, segment.is_damaged) = (result.last_group, damaged);
        }
        let room = header.segment_bytes.saturating_sub(footer.room_with(0));
        let whole = is_last || tells_its_end(&header);
        if whole && !damaged && room >= footer.end {
            let limit = header.segment_bytes.saturating_sub(footer.room_with(0));
            let remains = result.remains.into_iter().filter(|at| *at < limit).collect();
            self.unsealed.push((header, footer, remains));
        }
        Ok(())
    }
}

/// Of a segment that is not the last only its own header may say where it ends.
const fn tells_its_end(header: &SegmentHeader) -> bool {
    !header.live.is_empty() && header.sources.is_empty()
}

/// The segments that the records of a group, or those that it repeats, retire, or say are gone.
fn retired(item: &Scanned) -> Vec<(u64, u64)> {
    let Scanned::Group(group) = item else { return Vec::new() };
    let records = group.own.iter().flatten().chain(&group.repeated);
    let ranges = records.filter_map(|record| match record {
        Record::Retirement { segment } => Some((*segment, *segment)),
        Record::Gone { first, last } => Some((*first, *last)),
        _ => None,
    });
    ranges.collect()
}

/// What would tell the most of a segment without its header can be read, or the device can't: the system does not refuse.
fn is_not_refused(io: &mut dyn Io, number: u64) -> Result<(), IoFailure> {
    let name = segment_name(number);
    let trailer = io.len(&name)?.saturating_sub(u64::from(len_u32(TRAILER_BYTES)));
    let places = [(trailer, TRAILER_BYTES), (u64::from(len_u32(SEGMENT_HEADER_BYTES)), GROUP_HEADER_BYTES)];
    let failures = places.into_iter().filter_map(|(at, len)| read_exact(io, &name, at, len).err());
    failures.into_iter().find(IoFailure::is_refusal).map_or(Ok(()), Err)
}

/// The header of the segment's first group, if it is good.
pub(crate) fn first_group(io: &mut dyn Io, number: u64) -> Result<Option<GroupHeader>, IoFailure> {
    use crate::format::group::HeaderSeen as GroupHeaderSeen;
    let offset = u64::from(len_u32(SEGMENT_HEADER_BYTES));
    let bytes = read_exact(io, &segment_name(number), offset, GROUP_HEADER_BYTES)?;
    Ok(match GroupHeader::decode(&bytes) {
        GroupHeaderSeen::Valid(header) if header.segment == number && header.offset == offset => Some(header),
        _ => None,
    })
}

/// The trailer of a segment's file, if it is good, and where it lies.
fn read_trailer(io: &mut dyn Io, number: u64, manifest: &Manifest) -> Option<(Trailer, u64)> {
    let name = segment_name(number);
    let at = io.len(&name).ok()?.checked_sub(u64::from(len_u32(TRAILER_BYTES)))?;
    let trailer = Trailer::decode(&read_exact(io, &name, at, TRAILER_BYTES).ok()?)?;
    let ours = trailer.segment == number && trailer.directory == manifest.directory;
    let end =
        trailer.offset.checked_add(u64::from(trailer.summary_len))?.checked_add(u64::from(trailer.offsets_len))?;
    (ours && end <= at).then_some((trailer, at))
}

/// What a sealed segment says of itself, if its footer is good.
pub(crate) fn read_summary(io: &mut dyn Io, number: u64, manifest: &Manifest) -> Option<(Trailer, Summary)> {
    let (trailer, _) = read_trailer(io, number, manifest)?;
    let len = usize::try_from(trailer.summary_len).ok()?;
    let bytes = read_exact(io, &segment_name(number), trailer.offset, len).ok()?;
    if crc32fast::hash(&bytes) != trailer.summary_crc {
        return None;
    }
    let summary = Summary::decode(&bytes)?;
    let header = &summary.header;
    let agrees = header.number == number
        && header.directory == manifest.directory
        && header.segment_bytes == manifest.segment_bytes;
    agrees.then_some((trailer, summary))
}

/// The batches of a sealed segment, log by log in the order of its summary, if that part of its footer is good.
pub(crate) fn read_offsets(
    io: &mut dyn Io,
    number: u64,
    trailer: &Trailer,
    summary: &Summary,
) -> Option<Vec<Vec<BatchEntry>>> {
    let at = trailer.offset.checked_add(u64::from(trailer.summary_len))?;
    let len = usize::try_from(trailer.offsets_len).ok()?;
    let bytes = read_exact(io, &segment_name(number), at, len).ok()?;
    if crc32fast::hash(&bytes) != trailer.offsets_crc {
        return None;
    }
    summary.offsets(&bytes)
}
