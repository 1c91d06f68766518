//! Opening a directory: read and judge everything (`survey`, by the tables in `table`), then, and only then, write:
//! the next segment is activated, and its first group makes this life's incarnation and the cuts durable.

pub(crate) mod index;
pub(crate) mod numbers;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod scan;
pub(crate) mod survey;
pub(crate) mod table;

use bytes::Bytes;

use crate::core::{LogCore, Options, Recovered, Slot};
use crate::error::OpenError;
use crate::format::layout::PutFields;
use crate::format::manifest::{MANIFEST_NAME, MANIFEST_UNREADY_NAME, Manifest};
use crate::io::{Io, IoRequest, LockOutcome, execute, names};
use crate::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use report::OpenReport;
use survey::{Reader, Survey, read_manifest, survey};

impl LogCore {
    /// Opens the directory behind `io`, or makes a new log of an empty one.
    ///
    /// Returns once this life is durable: the manifest of a new log, a new segment whose header names where the last
    /// one ends, the cuts. If the disk has no room for that, the log opens all the same, to be read
    /// ([`OpenReport::writable`]).
    ///
    /// # Errors
    /// [`OpenError`]; unless it is `Io`, nothing was changed.
    pub fn recover(io: &mut dyn Io, options: &Options) -> Result<(Self, OpenReport), OpenError> {
        validate(options)?;
        if let LockOutcome::HeldBy(pid) = io.lock()? {
            return Err(OpenError::Locked { pid });
        }
        let manifest = read_manifest(io, options.directory_uuid)?;
        let created = manifest.is_none();
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => create(io, options)?,
        };
        let batches_max = options.index_bytes_max / size_of::<Slot>();
        let survey = survey(io, manifest, Reader::Owner, u64::try_from(batches_max).unwrap_or(u64::MAX))?;
        let (core, mut report) = Self::begin_life(io, options, survey)?;
        report.created = created;
        report.clean_close |= created;
        Ok((core, report))
    }

    /// Everything is decided. From here on the directory changes.
    pub(crate) fn begin_life(
        io: &mut dyn Io,
        options: &Options,
        mut survey: Survey,
    ) -> Result<(Self, OpenReport), OpenError> {
        for name in &survey.leftovers {
            io.remove(name)?;
        }
        make_names_anew(io, &mut survey.unsynced)?;
        // DURABLE: names that an earlier process made and did not live to sync, before anything is acknowledged in such a
        // file (attacked by `a_segment_whose_name_was_never_synced_is_not_written_to_before_it_is`).
        io.sync_dir()?;
        survey.unsynced.iter().for_each(|name| names::vouch(io, name));
        let (mut core, mut report) = Self::from_survey(survey, options, io.entropy());
        let held = if core.is_short_of_segments() { core.hold_seal_of_newest() } else { None };
        core.open_life(io)?;
        if let Some(held) = held {
            core.put_seal_back(held);
        }
        report.writable = core.has_begun();
        if let Ok(Some(free)) = io.free_bytes() {
            core.note_free_bytes(free);
        }
        core.check();
        Ok((core, report))
    }

    fn from_survey(survey: Survey, options: &Options, entropy: u64) -> (Self, OpenReport) {
        let manifest = survey.manifest;
        let incarnation = survey.replay.incarnation + 1;
        let mut report = survey.replay.report;
        report.incarnation = incarnation;
        report.directory_uuid = manifest.directory;
        report.segment_bytes = manifest.segment_bytes;
        let mut core = Self::new(Recovered {
            options: Options { segment_bytes: manifest.segment_bytes, ..options.clone() },
            directory: manifest.directory,
            incarnation,
            entropy,
            index: survey.replay.index,
            losses_unknown: report.losses_unknown,
            end: survey.end,
            segments: survey.replay.segments,
            ready: survey.ready.range(survey.end.segment + 1..).copied().collect(),
            repeat: survey.repeat,
            spare: survey.spare,
            seals: survey.unsealed,
        });
        core.trust_recovered();
        core.record_cuts();
        (core, report)
    }

    /// Activates a segment and makes the opening group durable, if there is room.
    fn open_life(&mut self, io: &mut dyn Io) -> Result<(), OpenError> {
        let mut run = |core: &mut Self, request: Option<IoRequest>| {
            let Some(request) = request else {
                return Ok(());
            };
            let result = execute(io, &request);
            core.on_io(request.id, result);
            core.poisoned().map_or(Ok(()), |failure| Err(OpenError::Io(failure.clone())))
        };
        // DURABLE: the cuts and the incarnation, before anybody is served; otherwise a second crash would forget
        // what this open dropped, and two lives could have one number (attacked by
        // `every_crash_leaves_a_state_that_holds_all_that_was_acknowledged`, which opens each state twice).
        if self.is_short_of_segments() {
            // The first group is to retire what the lives before left in their segments.
            loop {
                self.reclaim();
                let Some(seal) = self.poll_seal_of_old() else { break };
                run(self, Some(seal))?;
            }
        }
        while self.has_unwritten() {
            let write = self.poll_write();
            if write.is_some() {
                run(self, write)?;
                let sync = self.poll_sync();
                run(self, sync)?;
                continue;
            }
            let Some(preparation) = self.poll_preparation() else {
                // No room. Nothing is accepted before there is; then they are written first.
                return Ok(());
            };
            run(self, Some(preparation))?;
        }
        Ok(())
    }
}

/// D7: a sync of these names may have failed, and then the next one makes none of them durable. Only a change that it is for.
fn make_names_anew(io: &mut dyn Io, unsynced: &mut Vec<String>) -> Result<(), OpenError> {
    let (names, mut in_doubt) = (io.list()?, Vec::new());
    for name in unsynced.iter() {
        if !names.contains(name) {
            continue; // It was lost, or never came to be.
        }
        match names::make_anew(io, name) {
            // A full disk must open, or it would never have room again; and a file that is given up here would be missed. The
            // mark stays for a life that has room. What is risked until then: that power fails, and that the sync had failed
            // rather than that somebody ended the process in it.
            Err(failure) if failure.is_no_space() => in_doubt.push(name.clone()),
            made => made?,
        }
    }
    unsynced.retain(|name| !in_doubt.contains(name));
    Ok(())
}

fn validate(options: &Options) -> Result<(), OpenError> {
    let refused = |option, why| Err(OpenError::Options { option, why });
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes) {
        return refused("segment_bytes", "must be 64 KiB to 1 GiB");
    }
    if !options.segment_bytes.is_multiple_of(BLOCK_BYTES) {
        return refused("segment_bytes", "must be a multiple of 4 KiB");
    }
    Ok(())
}

/// Makes a new log's manifest: a directory without one has no log, whatever a crash leaves of this.
pub(crate) fn create(io: &mut dyn Io, options: &Options) -> Result<Manifest, OpenError> {
    let directory = options.directory_uuid.unwrap_or_else(|| {
        let mut uuid = Vec::with_capacity(16);
        uuid.put_u64(io.entropy());
        uuid.put_u64(io.entropy());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&uuid);
        bytes
    });
    let manifest = Manifest { directory, segment_bytes: options.segment_bytes };
    io.create(MANIFEST_UNREADY_NAME)?;
    io.write_at(MANIFEST_UNREADY_NAME, 0, &[Bytes::from(manifest.encode())])?;
    // DURABLE: the bytes before the name, the name before any segment; otherwise segments could be there without a
    // manifest to say whose they are (attacked by
    // `a_crash_during_the_first_open_leaves_a_directory_that_opens`).
    io.sync_data(MANIFEST_UNREADY_NAME)?;
    names::name(io, MANIFEST_UNREADY_NAME, MANIFEST_NAME)?;
    io.sync_dir()?;
    names::vouch(io, MANIFEST_NAME);
    Ok(manifest)
}
