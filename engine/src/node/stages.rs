//! Where the time of a write goes: how long batches stay in each stage of the pipeline.
//!
//! Measured once for each batch, or change of the state: of the caller who came first of those whose moment was noted, one in
//! eight of each thread. So a batch may have none, and its first record may have waited a little longer than is told. A lane is
//! one of the threads that seal, with those that apply for it.

use super::shard::now;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// What is told of one lane.
#[derive(Debug)]
pub(super) struct Stages {
    queue: Mutex<Histogram<u64>>,
    log: Mutex<Histogram<u64>>,
    wait: Mutex<Histogram<u64>>,
    apply: Mutex<Histogram<u64>>,
    write: Mutex<Histogram<u64>>,
    records: Mutex<Histogram<u64>>,
}

/// When one batch was where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// When its first caller came whose moment was noted; none if it has no such caller.
    submitted: Option<Instant>,
    sealed: Instant,
    durable: Option<Instant>,
}

/// A caller's token with the moment at which it came, of some.
pub(super) struct Arrived<T> {
    pub(super) at: Option<Instant>,
    pub(super) caller: T,
}

/// Of so many writes of a thread the moment of one is noted: a look at the clock for each would be felt.
const NOTED_ONE_IN: u8 = 8;

thread_local! {
    static WRITES: Cell<u8> = const { Cell::new(0) };
}

impl<T> Arrived<T> {
    /// Just now.
    pub(super) fn now(caller: T) -> Self {
        let number = WRITES.get();
        WRITES.set(number.wrapping_add(1));
        Self { at: number.is_multiple_of(NOTED_ONE_IN).then(now), caller }
    }
}

impl Times {
    /// Of a batch that is sealed, or came from elsewhere, at this moment.
    pub(super) const fn new(submitted: Option<Instant>, sealed: Instant) -> Self {
        Self { submitted, sealed, durable: None }
    }

    /// It is durable here; true the first time.
    pub(super) fn set_durable(&mut self, at: Instant) -> bool {
        let is_first = self.durable.is_none();
        self.durable = self.durable.or(Some(at));
        is_first
    }
}

/// Many numbers in short, to two digits: times in microseconds, or counts.
///
/// ```
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// for number in 0..20 {
///     node.default_namespace().put(format!("sample-{number}"), "x")?.wait()?;
/// }
/// let write = node.stats()?.lanes[0].write;
/// let mean = write.sum / write.count;
/// println!("{mean} µs on average, one of a hundred took {} µs or more", write.p99);
/// assert!(0 < write.median && write.median <= write.p99 && write.p99 <= write.max && mean <= write.max);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Distribution {
    /// How many there were.
    pub count: u64,
    /// Half of them were at or below this.
    pub median: u64,
    /// 90 of a hundred.
    pub p90: u64,
    /// 99 of a hundred.
    pub p99: u64,
    /// 999 of a thousand.
    pub p999: u64,
    /// The largest.
    pub max: u64,
    /// Their sum, to make means and rates of.
    pub sum: u64,
}

/// How long the batches of one lane stayed in each stage, in microseconds, since the node was opened.
///
/// ```
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let mut options = NodeOptions::alone(directory.path());
/// options.sequencers = 2;
/// let node = Node::open(options)?;
/// node.default_namespace().put("a", "1")?.wait()?;
/// let stats = node.stats()?;
/// assert_eq!(stats.lanes.len(), 2, "one of each thread that seals");
/// // Of these the one that has the default namespace's shard.
/// let lane = stats.lanes.iter().find(|lane| lane.write.count > 0).expect("one had a write");
/// println!("queue {} µs, log {} µs, apply {} µs", lane.queue.p99, lane.log.p99, lane.apply.p99);
/// assert!(lane.write.max >= lane.queue.max, "the whole takes no less than a part");
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LaneStats {
    /// From the submission of a batch's first record, of those whose moment was noted (one in eight), to its sealing: in the queue.
    pub queue: Distribution,
    /// From there until it was durable here: in the log.
    pub log: Distribution,
    /// From there until it was taken to be applied: for a majority, and for what is applied before it.
    pub wait: Distribution,
    /// One change of the state, of all batches that were there: to compute it and to write it.
    pub apply: Distribution,
    /// From the same submission to the moment before its answer: all of it.
    pub write: Distribution,
    /// Records of a batch: a count, not a time.
    pub records: Distribution,
}

impl Default for Stages {
    fn default() -> Self {
        Self { queue: empty(), log: empty(), wait: empty(), apply: empty(), write: empty(), records: empty() }
    }
}

impl Stages {
    /// A batch of so many records was sealed.
    pub(super) fn sealed(&self, times: &Times, records: u32) {
        if let Some(submitted) = times.submitted {
            record(&self.queue, times.sealed.saturating_duration_since(submitted));
        }
        self.records.lock().saturating_record(u64::from(records));
    }

    /// It is durable here.
    pub(super) fn durable(&self, times: &Times) {
        if let Some(durable) = times.durable {
            record(&self.log, durable.saturating_duration_since(times.sealed));
        }
    }

    /// These were applied together, between these moments.
    pub(super) fn applied<'a>(&self, batches: impl Iterator<Item = &'a Times>, from: Instant, to: Instant) {
        record(&self.apply, to.saturating_duration_since(from));
        for times in batches {
            if let Some(durable) = times.durable {
                record(&self.wait, from.saturating_duration_since(durable));
            }
            if let Some(submitted) = times.submitted {
                record(&self.write, to.saturating_duration_since(submitted));
            }
        }
    }

    /// All of it in short.
    pub(super) fn stats(&self) -> LaneStats {
        LaneStats {
            queue: in_short(&self.queue),
            log: in_short(&self.log),
            wait: in_short(&self.wait),
            apply: in_short(&self.apply),
            write: in_short(&self.write),
            records: in_short(&self.records),
        }
    }
}

/// The longest time that is told apart from longer ones, in microseconds: an hour.
const LONGEST_MICROS: u64 = 3_600_000_000;
/// Decimal digits of what is told.
const DIGITS: u8 = 2;

fn empty() -> Mutex<Histogram<u64>> {
    match Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS) {
        Ok(histogram) => Mutex::new(histogram),
        Err(error) => unreachable!("the bounds are constants: {error}"),
    }
}

fn record(histogram: &Mutex<Histogram<u64>>, time: Duration) {
    histogram.lock().saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

fn in_short(histogram: &Mutex<Histogram<u64>>) -> Distribution {
    let histogram = histogram.lock();
    let at = |share| histogram.value_at_quantile(share);
    let count = histogram.len();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "two digits"
    )]
    let sum = (histogram.mean() * count as f64) as u64;
    Distribution { count, median: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max(), sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_told_and_what_has_no_callers_counts_in_the_log_only() {
        let (stages, start) = (Stages::default(), now());
        let at = |micros: u64| start + Duration::from_micros(micros);
        let mut own = Times::new(Some(at(0)), at(100));
        stages.sealed(&own, 7);
        assert!(own.set_durable(at(300)) && !own.set_durable(at(500)), "the first time counts");
        stages.durable(&own);
        let mut foreign = Times::new(None, at(250));
        stages.sealed(&foreign, 1);
        foreign.set_durable(at(300));
        stages.durable(&foreign);
        stages.applied([own, foreign].iter(), at(700), at(1200));
        let told = stages.stats();
        let of = |distribution: Distribution| (distribution.count, distribution.max / 10 * 10);
        assert_eq!((of(told.queue), of(told.log)), ((1, 100), (2, 200)));
        assert_eq!((of(told.wait), of(told.apply), of(told.write)), ((2, 400), (1, 500), (1, 1200)));
        assert_eq!((told.records.count, told.records.max, told.records.sum), (2, 7, 8));
        stages.applied([].iter(), at(0), start + Duration::from_secs(100_000));
        assert!(stages.stats().apply.max >= LONGEST_MICROS / 2, "longer than can be told is told as the longest");
    }
}
