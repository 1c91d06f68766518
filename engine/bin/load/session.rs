//! [`load`]: one run of the loader: reads the file, appends its rows, and settles what is in doubt.

use super::ledger::{Fate, Ledger, Next, Write};
use super::origin::Origin;
use super::pace::Pace;
use super::survey::Survey;
use super::tail::{Tail, read_tail};
use crate::csv_rows::{RowError, Rows};
use bytes::Bytes;
use hdrhistogram::Histogram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{AbortHandle, JoinSet};
use towline::client::{Client, ClientError, WriteError};
use towline::model::request::FailureClass;
use towline::model::{Operation, Outcome, Record};

/// Streams read at a time before the load.
const TAILS_AT_A_TIME: usize = 64;
/// How long a server that takes nothing now is left alone before a stream of it is read again.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// Longer latencies count as this one.
const LATENCY_MAX_MICROS: u64 = 600_000_000;
/// How often the load looks whether it was told to stop, when nothing else happens.
const LOOK: Duration = Duration::from_millis(100);

/// What a load is told.
#[derive(Debug, Clone)]
pub(crate) struct LoadOptions {
    /// The file.
    pub(crate) path: PathBuf,
    /// The column that names the stream.
    pub(crate) key_column: String,
    /// Rows a second at the most.
    pub(crate) rate: Option<f64>,
    /// Rows sent or held back and not yet settled, at the most.
    pub(crate) in_flight_max: usize,
    /// Rows at the beginning of the file that are left out.
    pub(crate) skip_rows: u64,
}

/// Figures of a running load, for whoever shows them. Relaxed throughout: they order nothing.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Rows that were there before.
    pub(crate) skipped: AtomicU64,
    /// Rows sent, repeated ones included.
    pub(crate) sent: AtomicU64,
    /// Rows known to be in their streams by this load.
    pub(crate) stored: AtomicU64,
    /// Writes without a receipt yet.
    pub(crate) in_flight: AtomicU64,
    /// Receipts that stayed in doubt.
    pub(crate) in_doubt: AtomicU64,
    /// Rejections by another version, refusals by a server.
    pub(crate) rejected: AtomicU64,
    /// Set from outside: read no more rows, settle what was sent, and end.
    pub(crate) stop: AtomicBool,
}

/// What a load did.
#[derive(Debug)]
pub(crate) struct Summary {
    /// All rows up to this one are in their streams.
    pub(crate) position: u64,
    /// Rows found stored by reading their streams: their receipts were in doubt, or another load was faster.
    pub(crate) found: u64,
    /// How long it took, the reading of tails not counted.
    pub(crate) elapsed: Duration,
    /// Microseconds from sending a write to its receipt.
    pub(crate) latency: Histogram<u64>,
    /// Why it ended before the file did.
    pub(crate) ended: Option<Ended>,
}

/// Why a load ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// A row does not parse.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The server can't be used any more, or takes a row for wrong.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server refuses a write for good.
    #[error("row {row} is refused: {source}")]
    Refused {
        /// The row.
        row: u64,
        /// What the server says.
        source: WriteError,
    },
    /// The file is not the one that was surveyed.
    #[error("{} changed while it was loaded", .0.display())]
    Changed(PathBuf),
    /// Rows of this file are stored by a load that left out more or fewer of its first rows: which of them are there
    /// can't be told from the last one.
    #[error(
        "stream {stream:?} holds rows of this file that were loaded with --skip-rows {stored}, not {wanted}: \
         repeat that load with the same number"
    )]
    SkippedOtherwise {
        /// The stream.
        stream: String,
        /// The number of the load that stored them.
        stored: u64,
        /// The number of this one.
        wanted: u64,
    },
    /// It was told to.
    #[error("interrupted")]
    Interrupted,
    /// The figures can't be kept.
    #[error(transparent)]
    Figures(#[from] hdrhistogram::CreationError),
}

/// Appends the rows of a surveyed file.
///
/// # Errors
/// Nothing was sent: the streams can't be read, or the file can't be opened. What comes after is told in the
/// [`Summary`], with the position reached.
pub(crate) async fn load(
    client: &Client,
    options: &LoadOptions,
    survey: &Survey,
    counters: &Arc<Counters>,
) -> Result<Summary, Ended> {
    let latency = Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3)?;
    let ledger = read_tails(client, survey, options.skip_rows).await?;
    let session = Session {
        client: client.clone(),
        options,
        file: survey.file,
        rows: Rows::open(&options.path, &options.key_column)?,
        ledger,
        counters: Arc::clone(counters),
        events: JoinSet::new(),
        ready: Vec::new(),
        rereads: 0,
        reads: Vec::new(),
        pace: Pace::new(options.rate),
        started: Instant::now(),
        last_read: 0,
        found: 0,
        latency,
        ended: None,
        is_lost: false,
    };
    Ok(session.run(survey).await)
}

/// How every stream of the file stands.
async fn read_tails(client: &Client, survey: &Survey, skip_rows: u64) -> Result<Ledger, Ended> {
    let (mut ledger, mut reads) = (Ledger::default(), JoinSet::new());
    let mut streams = survey.streams.iter();
    loop {
        while reads.len() < TAILS_AT_A_TIME
            && let Some(stream) = streams.next()
        {
            let (client, stream, file) = (client.clone(), stream.clone(), survey.file);
            reads.spawn(async move {
                let tail = read_tail(&client, &stream, &file).await;
                (stream, tail)
            });
        }
        match reads.join_next().await {
            Some(Ok((stream, tail))) => {
                let tail = tail?;
                if tail.last_row > 0 && tail.skipped != skip_rows {
                    let stream = String::from_utf8_lossy(&stream).into_owned();
                    return Err(Ended::SkippedOtherwise { stream, stored: tail.skipped, wanted: skip_rows });
                }
                ledger.begin(stream, tail);
            }
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            None => return Ok(ledger),
        }
    }
}

/// What a session waits for.
enum Event {
    Receipt { write: Write, result: Result<Outcome, WriteError>, took: Duration },
    Tail { stream: Bytes, tail: Result<Tail, ClientError> },
}

struct Session<'a> {
    client: Client,
    options: &'a LoadOptions,
    file: [u8; 32],
    rows: Rows,
    ledger: Ledger,
    counters: Arc<Counters>,
    /// Receipts and reads under way: at most `in_flight_max`, and one read a stream.
    events: JoinSet<Event>,
    /// Writes to send before any new row is read.
    ready: Vec<Write>,
    /// Streams being read.
    rereads: usize,
    reads: Vec<AbortHandle>,
    pace: Pace,
    started: Instant,
    last_read: u64,
    found: u64,
    latency: Histogram<u64>,
    ended: Option<Ended>,
    /// The server can't be reached any more, or refuses for good: nothing further is sent or read.
    is_lost: bool,
}

/// What the session does next.
enum Step {
    Send(Write),
    Read,
    Wait(Duration),
    Settled,
}

impl Session<'_> {
    async fn run(mut self, survey: &Survey) -> Summary {
        let mut is_at_end = false;
        loop {
            while let Some(event) = self.events.try_join_next() {
                self.on_joined(event);
            }
            if self.counters.stop.load(Ordering::Relaxed) && self.ended.is_none() {
                self.ended = Some(Ended::Interrupted);
            }
            match self.step(is_at_end || self.ended.is_some()) {
                Step::Send(write) => self.send(write).await,
                Step::Read => is_at_end = self.read(survey),
                Step::Wait(pause) => {
                    tokio::select! {
                        Some(event) = self.events.join_next() => self.on_joined(event),
                        () = tokio::time::sleep(pause) => {}
                    }
                }
                Step::Settled => break,
            }
        }
        Summary {
            position: self.ledger.position(self.last_read),
            found: self.found,
            elapsed: self.started.elapsed(),
            latency: self.latency,
            ended: self.ended,
        }
    }

    fn step(&mut self, is_at_end: bool) -> Step {
        // A server that can't be reached any more settles nothing: what is in flight has its receipts already.
        let is_lost = self.is_lost;
        if is_lost && self.events.is_empty() {
            return Step::Settled;
        }
        if !is_lost && let Some(write) = self.ready.pop() {
            return Step::Send(write);
        }
        if !is_at_end && self.ledger.unsettled() < self.options.in_flight_max {
            return self.pace.take(self.started.elapsed()).map_or(Step::Read, |pause| Step::Wait(pause.min(LOOK)));
        }
        let is_settled = self.ledger.unsettled() == 0 && self.rereads == 0;
        if is_at_end && !is_lost && is_settled { Step::Settled } else { Step::Wait(LOOK) }
    }

    /// Takes the next row of the file; true at its end.
    fn read(&mut self, survey: &Survey) -> bool {
        let row = match self.rows.next_row() {
            Ok(Some(row)) => row,
            Ok(None) => return true,
            Err(error) => {
                self.ended = Some(error.into());
                return true;
            }
        };
        if !survey.streams.contains(&row.key) {
            self.ended = Some(Ended::Changed(self.options.path.clone()));
            return true;
        }
        self.last_read = row.number;
        let is_left_out = row.number <= self.options.skip_rows;
        match if is_left_out { None } else { self.ledger.offer(row) } {
            Some(next) => self.follow(&Bytes::new(), next),
            None => {
                self.pace.put_back();
                self.counters.skipped.fetch_add(1, Ordering::Relaxed);
            }
        }
        false
    }

    async fn send(&mut self, write: Write) {
        let append = |(place, (row, raw)): (usize, &(u64, Bytes))| Operation::Append {
            stream: write.stream.clone(),
            expect: write.expect(place),
            metadata: Origin { file: self.file, row: *row, skipped: self.options.skip_rows }.encode(),
            value: raw.clone(),
        };
        let record = Record::of(write.rows.iter().enumerate().map(append).collect());
        let sent_at = Instant::now();
        match self.client.write(&record).await {
            Ok(receipt) => {
                self.counters.sent.fetch_add(write.rows.len() as u64, Ordering::Relaxed);
                self.counters.in_flight.fetch_add(1, Ordering::Relaxed);
                self.events.spawn(async move {
                    let result = receipt.await.map(|written| written.outcome);
                    Event::Receipt { write, result, took: sent_at.elapsed() }
                });
            }
            // It was not sent: that is certain. Its rows stay open in the ledger, and so in the position told.
            Err(error) => self.lose(error.into()),
        }
    }

    fn follow(&mut self, stream: &Bytes, next: Next) {
        match next {
            Next::Nothing => {}
            Next::Send(write) => self.ready.push(write),
            Next::Read => {
                self.rereads += 1;
                let (client, stream, file) = (self.client.clone(), stream.clone(), self.file);
                self.reads.retain(|read| !read.is_finished());
                let read = self.events.spawn(async move {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    let tail = read_tail(&client, &stream, &file).await;
                    Event::Tail { stream, tail }
                });
                self.reads.push(read);
            }
        }
    }

    fn lose(&mut self, why: Ended) {
        self.is_lost = true;
        self.reads.drain(..).for_each(|read| read.abort());
        // A broken row is found again by the load that goes on; only that one knows what is stored before it.
        if matches!(self.ended, None | Some(Ended::Row(_))) {
            self.ended = Some(why);
        }
    }

    fn on_joined(&mut self, event: Result<Event, tokio::task::JoinError>) {
        match event {
            Ok(Event::Receipt { write, result, took }) => {
                self.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
                self.on_receipt(&write, result, took);
            }
            Ok(Event::Tail { stream, tail }) => {
                self.rereads -= 1;
                match tail {
                    Ok(tail) => {
                        let (found, next) = self.ledger.reread(&stream, tail);
                        self.found += found;
                        self.counters.stored.fetch_add(found, Ordering::Relaxed);
                        self.follow(&stream, next);
                    }
                    Err(error) => self.lose(error.into()),
                }
            }
            Err(cancelled) if cancelled.is_cancelled() => self.rereads -= 1,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn on_receipt(&mut self, write: &Write, result: Result<Outcome, WriteError>, took: Duration) {
        let fate = match result {
            Ok(Outcome::Applied { .. }) => {
                self.latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                Fate::Stored
            }
            Ok(_) => {
                self.counters.rejected.fetch_add(1, Ordering::Relaxed);
                Fate::NotStored
            }
            Err(error @ WriteError::Refused(_)) => {
                self.counters.rejected.fetch_add(1, Ordering::Relaxed);
                if !matches!(error.class(), FailureClass::Retry | FailureClass::ReRoute) {
                    let row = write.rows.first().map_or(0, |(row, _)| *row);
                    return self.lose(Ended::Refused { row, source: error });
                }
                Fate::NotStored
            }
            Err(_) => {
                self.counters.in_doubt.fetch_add(1, Ordering::Relaxed);
                Fate::Unknown
            }
        };
        let (stored, next) = self.ledger.resolve(&write.stream, fate);
        self.counters.stored.fetch_add(stored, Ordering::Relaxed);
        self.follow(&write.stream, next);
    }
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
