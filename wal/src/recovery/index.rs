//! A sealed segment's index, read again: from its footer, or from its groups.

use std::collections::BTreeMap;

use super::scan::{Bound, Image, Scanned, ScannedGroup, scan};
use super::survey::{read_offsets, read_summary};
use crate::core::IndexRequest;
use crate::core::segment_index::IndexEntry;
use crate::format::batch::Batch;
use crate::format::footer::Footer;
use crate::format::ids::{LogId, LogPosition};
use crate::format::manifest::Manifest;
use crate::format::record::{BatchEntry, Record};
use crate::format::segment::{LogFilesEnd, SegmentHeader};
use crate::io::{Io, IoFailure};

/// The batches of each log in a segment.
pub(crate) type Logs = Vec<(LogId, Vec<IndexEntry>)>;

/// The batches of each log in the segment. What can't be read is not among them; why it could not, if the device said so.
pub(crate) fn load(io: &mut dyn Io, request: &IndexRequest) -> (Logs, Option<IoFailure>) {
    if let Some(logs) = from_footer(io, request) {
        return (logs, None);
    }
    match Image::read(io, request.segment, request.segment_bytes) {
        Ok(image) => (from_groups(&image, request).unwrap_or_default(), image.unreadable()),
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

fn from_groups(image: &Image, request: &IndexRequest) -> Option<Logs> {
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
            // What the lost group held; whether it can still be read, the reader finds out.
            let named: Vec<Option<Batch>> = Vec::new();
            gather(&mut footer, &group.repeated, &named, true);
        }
        // Bad ones too, as a footer names them: otherwise nobody would miss them.
        gather(&mut footer, &own, &group.batches, true);
    }
    let logs = footer.logs.into_iter();
    Some(logs.map(|(log, state)| (log, state.batches.iter().map(entry).collect())).collect())
}

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
            other => footer.record(other),
        }
    }
}

const fn entry(batch: &BatchEntry) -> IndexEntry {
    let BatchEntry { first, last, chain, offset, len, .. } = *batch;
    IndexEntry { first, last, chain, offset, len }
}
