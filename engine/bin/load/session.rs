//! [`load`]: one run of the loader: reads the file, appends its rows, and settles what is in doubt.

use super::ledger::{Append, Fate, Ledger, Offered};
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
use tokio::task::JoinSet;
use towline::client::{Client, ClientError, WriteError};
use towline::model::request::FailureClass;
use towline::model::{Operation, Outcome, Record};

/// Streams read at a time before the load.
const TAILS_AT_A_TIME: usize = 64;
/// How long a server that takes nothing now is left alone before a stream of it is read again.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
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
    /// Appends sent, repeated ones included.
    pub(crate) sent: AtomicU64,
    /// Rows known to be in their streams by this load.
    pub(crate) stored: AtomicU64,
    /// Appends without a receipt yet.
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
    /// Rows whose presence was found by reading, since their receipts were in doubt.
    pub(crate) found: u64,
    /// How long it took, the reading of tails not counted.
    pub(crate) elapsed: Duration,
    /// Microseconds from sending an append to its receipt.
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
    /// The server refuses an append for good.
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
    /// It was told to.
    #[error("interrupted")]
    Interrupted,
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
    let ledger = read_tails(client, survey).await?;
    let session = Session {
        client: client.clone(),
        options,
        file: survey.file,
        rows: Rows::open(&options.path, &options.key_column)?,
        ledger,
        counters: Arc::clone(counters),
        events: JoinSet::new(),
        resend: Vec::new(),
        pace: Pace::new(options.rate),
        started: Instant::now(),
        last_read: 0,
        found: 0,
        latency: Histogram::new(3).map_err(|_| Ended::Interrupted)?,
        ended: None,
        is_lost: false,
    };
    Ok(session.run(survey).await)
}

/// How every stream of the file stands.
async fn read_tails(client: &Client, survey: &Survey) -> Result<Ledger, ClientError> {
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
            Some(Ok((stream, tail))) => ledger.begin(stream, tail?),
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            None => return Ok(ledger),
        }
    }
}

/// What a session waits for.
enum Event {
    Receipt { append: Append, result: Result<Outcome, WriteError>, took: Duration },
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
    /// Appends to send before any new row, the next one last.
    resend: Vec<Append>,
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
    Send(Append),
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
                Step::Send(append) => self.send(append).await,
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
        if !is_lost && let Some(append) = self.resend.pop() {
            return Step::Send(append);
        }
        if !is_at_end && self.ledger.unsettled() < self.options.in_flight_max {
            return self.pace.take(self.started.elapsed()).map_or(Step::Read, |pause| Step::Wait(pause.min(LOOK)));
        }
        if is_at_end && !is_lost && self.ledger.is_settled() { Step::Settled } else { Step::Wait(LOOK) }
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
        match if is_left_out { Offered::Skipped } else { self.ledger.offer(row) } {
            Offered::Skipped => {
                self.counters.skipped.fetch_add(1, Ordering::Relaxed);
            }
            Offered::Send(append) => self.resend.push(append),
            Offered::Waits => {}
        }
        false
    }

    async fn send(&mut self, append: Append) {
        let operation = Operation::Append {
            stream: append.stream.clone(),
            expect: append.expect,
            metadata: Origin { file: self.file, row: append.row }.encode(),
            value: append.value.clone(),
        };
        let sent_at = Instant::now();
        match self.client.write(&Record::of(vec![operation])).await {
            Ok(receipt) => {
                self.counters.sent.fetch_add(1, Ordering::Relaxed);
                self.counters.in_flight.fetch_add(1, Ordering::Relaxed);
                self.events.spawn(async move {
                    let result = receipt.await.map(|written| written.outcome);
                    Event::Receipt { append, result, took: sent_at.elapsed() }
                });
            }
            Err(error) => {
                // It was not sent: that is certain. The rest is told by `ended`.
                self.settle(&append, Fate::NotStored);
                self.lose(error.into());
            }
        }
    }

    fn lose(&mut self, why: Ended) {
        self.is_lost = true;
        self.ended.get_or_insert(why);
    }

    fn on_joined(&mut self, event: Result<Event, tokio::task::JoinError>) {
        match event {
            Ok(Event::Receipt { append, result, took }) => {
                self.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
                self.on_receipt(&append, result, took);
            }
            Ok(Event::Tail { stream, tail: Ok(tail) }) => {
                let (found, mut appends) = self.ledger.reread(&stream, tail);
                self.found += found;
                self.counters.stored.fetch_add(found, Ordering::Relaxed);
                appends.reverse();
                // In front of others of other streams; of this one there are none.
                self.resend.append(&mut appends);
            }
            Ok(Event::Tail { tail: Err(error), .. }) => self.lose(error.into()),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn on_receipt(&mut self, append: &Append, result: Result<Outcome, WriteError>, took: Duration) {
        let fate = match result {
            Ok(Outcome::Applied { .. }) => {
                self.counters.stored.fetch_add(1, Ordering::Relaxed);
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
                    self.lose(Ended::Refused { row: append.row, source: error });
                }
                Fate::NotStored
            }
            Err(_) => {
                self.counters.in_doubt.fetch_add(1, Ordering::Relaxed);
                Fate::Unknown
            }
        };
        self.settle(append, fate);
    }

    fn settle(&mut self, append: &Append, fate: Fate) {
        if !self.ledger.resolve(&append.stream, append.row, fate) {
            return;
        }
        let (client, stream, file) = (self.client.clone(), append.stream.clone(), self.file);
        self.events.spawn(async move {
            tokio::time::sleep(REFUSED_PAUSE).await;
            let tail = read_tail(&client, &stream, &file).await;
            Event::Tail { stream, tail }
        });
    }
}
