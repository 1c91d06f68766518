//! A sealed segment's index, read again: from its footer, or from its groups.

use std::collections::BTreeMap;

use super::scan::{Bound, Image, Scanned, ScannedGroup, scan};
use super::survey::{first_group, read_offsets, read_summary};
use crate::core::IndexRequest;
use crate::core::segment_index::IndexEntry;
use crate::format::batch::Batch;
use crate::format::footer::Footer;
use crate::format::ids::{LogId, LogPosition};
use crate::format::layout::len_u32;
use crate::format::manifest::Manifest;
use crate::format::record::{BatchEntry, Record};
use crate::format::segment::{LogFilesEnd, SegmentHeader};
use crate::io::{Io, IoFailure, read_exact, segment_name};
use crate::limits::{GROUP_DIRECTORY_BYTES_MAX, GROUP_HEADER_BYTES};

/// The batches of each log in a segment.
pub(crate) type Logs = Vec<(LogId, Vec<IndexEntry>)>;

/// The batches of each log in the segment. What can't be read is not among them; why it could not, if the device said so.
pub(crate) fn load(io: &mut dyn Io, request: &IndexRequest) -> (Logs, Option<IoFailure>) {
    if let Some(logs) = from_footer(io, request) {
        return (logs, None);
    }
    match Image::read(io, request.segment, request.segment_bytes) {
        Ok(image) => {
            let (logs, failure) = from_groups(io, &image, request).unwrap_or_default();
            (logs, image.unreadable().or(failure))
        }
        Err(failure) => (Logs::new(), Some(failure)),
    }
}

/// The batches of each log, if the footer is good and of the activation that is asked for.
pub(crate) fn from_footer(io: &mut dyn Io, request: &IndexRequest) -> Option<Logs> {
    let manifest = Manifest { directory: request.directory, segment_bytes: request.segment_bytes };
    let (trailer, summary) = read_summary(io, request.segment, &manifest)?;
    if summary.header.salt != request.salt {
        return None;
    }
    let offsets = read_offsets(io, request.segment, &trailer, &summary)?;
    let logs = summary.logs.iter().map(|log| log.log);
    Some(logs.zip(offsets).map(|(log, batches)| (log, batches.iter().map(entry).collect())).collect())
}

/// And why what tells of a lost last group could not be read, if so.
fn from_groups(io: &mut dyn Io, image: &Image, request: &IndexRequest) -> Option<(Logs, Option<IoFailure>)> {
    let header = SegmentHeader {
        directory: request.directory,
        number: request.segment,
        first_group: request.first_group,
        salt: request.salt,
        predecessor: LogFilesEnd::default(),
        incarnation: 0,
        segment_bytes: request.segment_bytes,
        live: Vec::new(),
        sources: if request.compacted { vec![request.segment] } else { Vec::new() },
    };
    let bound = Bound { last_group: Some(request.last_group), is_sealed: true };
    let found = scan(image, &header, bound).ok()?;
    let mut footer = Footer::default();
    let mut lost = false;
    for item in found.scanned {
        let Scanned::Group(group) = item else {
            lost = true;
            continue;
        };
        let Some(own) = group.own else {
            lost = true;
            continue;
        };
        if std::mem::take(&mut lost) {
            gather_lost(&mut footer, &group.repeated);
        }
        // Bad ones too, as a footer names them: otherwise nobody would miss them.
        gather(&mut footer, &own, &group.batches, true);
    }
    let mut failure = None;
    if lost {
        // The last one: the open knew what it held from the next segment.
        match repeated_behind(io, request) {
            Ok(repeated) => gather_lost(&mut footer, &repeated.unwrap_or_default()),
            // It had its footer, and the next one went: what that told nobody tells any more.
            Err(refused) if refused.kind == std::io::ErrorKind::NotFound => {}
            Err(refused) => failure = Some(refused),
        }
    }
    let logs = footer.logs.into_iter();
    Some((logs.map(|(log, state)| (log, state.batches.iter().map(entry).collect())).collect(), failure))
}

/// What a lost group held; whether it can still be read, the reader finds out.
fn gather_lost(footer: &mut Footer, repeated: &[Record]) {
    gather(footer, repeated, &[], true);
}

/// What the next segment's first group says of the last one of this segment. If this never had a footer, the next one is there as
/// long as it is. `Ok(None)`: nothing.
fn repeated_behind(io: &mut dyn Io, request: &IndexRequest) -> Result<Option<Vec<Record>>, IoFailure> {
    // What stands for several says where it put batches; what is said behind them, where they were.
    if request.compacted {
        return Ok(None);
    }
    let number = request.segment + 1;
    let Some(header) = first_group(io, number)? else { return Ok(None) };
    // A compacted one's first group stands for those before it, and repeats what was before the segment.
    let follows = header.number == request.last_group + 1 || header.flags.compacted;
    let front = u64::from(header.own_len) + u64::from(header.repeated_len) + u64::from(len_u32(GROUP_HEADER_BYTES));
    let Some(front) = usize::try_from(front).ok().filter(|front| follows && *front <= FRONT_BYTES_MAX) else {
        return Ok(None);
    };
    let bytes = read_exact(io, &segment_name(number), header.offset, front)?;
    Ok(header.directories(&bytes).ok().map(|(_, repeated)| repeated))
}

/// A group's header and both its directories.
const FRONT_BYTES_MAX: usize = GROUP_HEADER_BYTES + 2 * GROUP_DIRECTORY_BYTES_MAX;

/// The batches of each log that the groups leave, truncations among them applied.
pub(crate) fn final_batches(groups: &[ScannedGroup]) -> BTreeMap<LogId, Vec<BatchEntry>> {
    let mut footer = Footer::default();
    for group in groups {
        gather(&mut footer, group.own.as_deref().unwrap_or_default(), &group.batches, false);
    }
    footer.logs.into_iter().map(|(log, state)| (log, state.batches)).collect()
}

fn gather(footer: &mut Footer, records: &[Record], batches: &[Option<Batch>], all: bool) {
    let mut batches = batches.iter();
    for record in records {
        match record {
            Record::Batch(batch) => {
                if all || batches.next().is_some_and(Option::is_some) {
                    // The truncation before it may have been lost.
                    let known = footer.logs.get_mut(&batch.log).map(|state| &mut state.batches);
                    known.into_iter().for_each(|known| while known.pop_if(|b| b.last >= batch.first).is_some() {});
                    footer.batch(*batch, LogPosition::origin(batch.log));
                }
            }
            Record::Mended(_) => drop(batches.next()), // It is in no run.
            other => footer.record(other),
        }
    }
}

const fn entry(batch: &BatchEntry) -> IndexEntry {
    let BatchEntry { first, last, chain, offset, len, .. } = *batch;
    IndexEntry { first, last, chain, offset, len }
}
