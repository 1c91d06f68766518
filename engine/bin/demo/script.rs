//! The story that is played.

use super::check::{Expected, batches, end, same};
use super::cluster::{Cluster, FOLLOWER, LEADER, NODES};
use super::figures::Figures;
use super::loading::Loading;
use crate::output::{count, hex};
use crate::progress::Progress;
use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The follower dies when this share of the rows is acknowledged, the leader at that.
const FOLLOWER_DIES_AT: f64 = 0.12;
const LEADER_DIES_AT: f64 = 0.60;
/// What must be unacknowledged at each kill, for the kill to have hit the load.
const UNACKED_MIN: f64 = 0.20;
/// How far behind a follower must be at its restart; it is let fall so far, or a tenth of the rows.
const BEHIND_MIN: u64 = 2_000;
const BEHIND_WANTED: u64 = 2_500;
/// The pace of the load: as long as this if it were not disturbed, and no slower than that.
const SECONDS_WANTED: u64 = 12;
const RATE_MIN: u64 = 1_500;
/// How long a leader that is killed stays away.
const LEADER_AWAY: Duration = Duration::from_millis(500);
/// How long anything may take that should take a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a state is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// What is played.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) data: PathBuf,
    pub(crate) key_column: String,
    pub(crate) keep: bool,
    pub(crate) is_quiet: bool,
}

/// Plays it, from the first process to the last comparison.
///
/// # Errors
/// Something is not as it is claimed to be, or could not be tried.
pub(crate) async fn play(plan: &Plan) -> Result<Figures> {
    let expected = Expected::read(&plan.data, &plan.key_column)?;
    let rate = (expected.rows / SECONDS_WANTED).max(RATE_MIN);
    let behind_wanted = (expected.rows / 10).max(BEHIND_WANTED);
    let behind_least = behind_wanted + (expected.rows as f64 * FOLLOWER_DIES_AT) as u64;
    ensure!(
        behind_least as f64 <= expected.rows as f64 * LEADER_DIES_AT,
        "{} has {} rows: too few to kill anything in their midst",
        plan.data.display(),
        count(expected.rows)
    );
    let cluster = Cluster::prepare(plan.keep)?;
    let figures =
        Figures { events: expected.rows, streams: expected.streams() as u64, rate_asked: rate, ..Figures::default() };
    let progress = Progress::new(expected.rows, 0, plan.is_quiet);
    let mut story = Story { plan, behind_wanted, expected, cluster, progress, figures };
    let played = story.play().await;
    story.progress.finish();
    if plan.keep {
        story.say(&format!("the nodes' directories: {}", story.cluster.path().display()));
    }
    played?;
    Ok(story.figures)
}

struct Story<'a> {
    plan: &'a Plan,
    behind_wanted: u64,
    expected: Expected,
    cluster: Cluster,
    progress: Progress,
    figures: Figures,
}

impl Story<'_> {
    fn say(&self, sentence: &str) {
        self.progress.say(sentence);
    }

    async fn play(&mut self) -> Result<()> {
        let (rows, streams) = (count(self.expected.rows), count(self.expected.streams() as u64));
        self.say(&format!("{}: {rows} rows in {streams} streams", self.plan.data.display()));
        self.begin().await?;
        let mut loading = self.load(Some(self.figures.rate_asked))?;
        self.kill_follower(&mut loading).await?;
        self.kill_leader(&mut loading).await?;
        let summary = loading.finish(|acked| self.progress.show(acked, "")).await?;
        self.progress.finish();
        self.note(&summary)?;
        self.compare_states().await?;
        self.load_again().await?;
        self.compare_logs().await
    }

    async fn begin(&mut self) -> Result<()> {
        for node in 0..NODES {
            self.cluster.start(node)?;
        }
        let status = self.cluster.until(LEADER, "takes writes", |status| status.serving).await?;
        let (version, term) = status.epoch;
        self.say(&format!("three nodes run; node 1 leads in epoch {version}.{term}"));
        Ok(())
    }

    fn load(&self, rate: Option<u64>) -> Result<Loading> {
        let data = self.plan.data.to_str().context("the file's name is not text")?;
        let mut arguments: Vec<String> =
            ["load", data, "--key-column", &self.plan.key_column, "--json", "--addr", &self.cluster.addresses()]
                .map(str::to_owned)
                .into();
        arguments.extend(rate.map(|rate| format!("--rate={rate}")));
        Loading::start(&arguments, self.cluster.path().join("load.log"))
    }

    /// Waits until this share of the rows is acknowledged.
    async fn until_acked(&mut self, loading: &mut Loading, share: f64, word: &str) -> Result<()> {
        let rows = (self.expected.rows as f64 * share) as u64;
        let progress = &mut self.progress;
        loading
            .until("it was disturbed", |loading| loading.figure("acked") >= rows, |acked| progress.show(acked, word))
            .await
    }

    /// The share of rows not acknowledged. The log proves it (but for the few records that hold several rows): no
    /// more can have been acknowledged than it holds; and the load says how many were.
    fn unacked(&self, log_end: u64, acked: u64, who: &str) -> Result<f64> {
        let unacked = 1.0 - log_end.max(acked) as f64 / self.expected.rows as f64;
        ensure!(unacked >= UNACKED_MIN, "{who} was killed too late: {:.0} % of rows were left", unacked * 100.0);
        Ok(unacked)
    }

    async fn kill_follower(&mut self, loading: &mut Loading) -> Result<()> {
        self.until_acked(loading, FOLLOWER_DIES_AT, "").await?;
        self.cluster.kill(FOLLOWER).await?;
        let stands = end(&batches(&self.cluster.data(FOLLOWER)).await?);
        let leader = self.cluster.until(LEADER, "answers", |_| true).await?;
        self.figures.unacked_at_follower_kill = self.unacked(leader.end, loading.figure("acked"), "the follower")?;
        let percent = self.figures.unacked_at_follower_kill * 100.0;
        self.say(&format!("kill -9 node 3, a follower: {percent:.0} % of rows unacknowledged; the load goes on"));
        let begun = Instant::now();
        let leader = loop {
            let leader = self.cluster.until(LEADER, "answers", |_| true).await?;
            self.progress.show(loading.figure("acked"), "node 3 is down");
            if leader.end >= stands + self.behind_wanted {
                break leader;
            }
            ensure!(begun.elapsed() < PATIENCE, "the load does not go on while a follower is down");
            tokio::time::sleep(LOOK).await;
        };
        self.figures.behind = leader.end - stands;
        ensure!(self.figures.behind >= BEHIND_MIN, "the follower is only {} records behind", self.figures.behind);
        self.say(&format!("node 3 starts again, {} records behind", count(self.figures.behind)));
        self.catch_up(loading).await
    }

    /// Starts the follower and waits until it has applied what the leader had committed just before.
    async fn catch_up(&mut self, loading: &Loading) -> Result<()> {
        let begun = Instant::now();
        self.cluster.start(FOLLOWER)?;
        loop {
            let leader = self.cluster.until(LEADER, "answers", |_| true).await?;
            let follower = self.cluster.until(FOLLOWER, "answers", |_| true).await?;
            self.progress.show(loading.figure("acked"), "node 3 catches up");
            if follower.applied >= leader.committed {
                break;
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "the follower does not catch up: {} behind",
                leader.end - follower.applied
            );
            tokio::time::sleep(LOOK).await;
        }
        self.figures.catch_up = begun.elapsed();
        let millis = self.figures.catch_up.as_millis();
        self.say(&format!("node 3 has caught up, {millis} ms after its start, recovery included, under load"));
        Ok(())
    }

    /// The leader dies with receipts that it has not given: just before, its followers are stopped (SIGSTOP) for a
    /// moment, so that what it was sent can't be committed.
    async fn kill_leader(&mut self, loading: &mut Loading) -> Result<()> {
        self.until_acked(loading, LEADER_DIES_AT, "").await?;
        let wire_bytes = self.cluster.until(LEADER, "answers", |_| true).await?.wire_bytes_sent;
        let followers: Vec<_> = (0..NODES).filter(|node| *node != LEADER).collect();
        for node in &followers {
            self.cluster.signal(*node, Signal::STOP)?;
        }
        // The feed comes every 50 ms: two lines later what it says was true after the stop.
        tokio::time::sleep(Duration::from_millis(120)).await;
        loading.until("it had sent anything", |loading| loading.figure("in_flight") > 0, |_| ()).await?;
        self.cluster.note_wire_bytes(wire_bytes);
        self.cluster.kill_unasked(LEADER)?;
        let died = Instant::now();
        for node in &followers {
            self.cluster.signal(*node, Signal::CONT)?;
        }
        let stands = end(&batches(&self.cluster.data(LEADER)).await?);
        self.figures.unacked_at_leader_kill = self.unacked(stands, loading.figure("acked"), "the leader")?;
        let percent = self.figures.unacked_at_leader_kill * 100.0;
        self.say(&format!("kill -9 node 1, the leader: {percent:.0} % of rows unacknowledged, receipts in doubt"));
        tokio::time::sleep(LEADER_AWAY.saturating_sub(died.elapsed())).await;
        self.cluster.start(LEADER)?;
        let status = self.cluster.until(LEADER, "takes writes again", |status| status.serving).await?;
        self.figures.leader_away = died.elapsed();
        let (version, term) = status.epoch;
        self.say(&format!("node 1 starts again and leads in epoch {version}.{term}; the load resumes"));
        Ok(())
    }

    fn note(&mut self, summary: &Value) -> Result<()> {
        let number = |name: &str| summary.get(name).and_then(Value::as_u64).unwrap_or(0);
        let latency = |name| summary.pointer(name).and_then(Value::as_f64).unwrap_or(0.0);
        self.figures.seconds = summary.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
        self.figures.latency_ms = (latency("/latency_ms/p50"), latency("/latency_ms/p99"));
        (self.figures.in_doubt, self.figures.found) = (number("in_doubt"), number("found"));
        ensure!(self.figures.in_doubt >= 1, "the leader's death left no receipt in doubt");
        ensure!(number("position") == self.expected.rows, "the load ended at row {}", number("position"));
        self.say(&format!("the load is complete; {} receipts had been in doubt", self.figures.in_doubt));
        Ok(())
    }

    /// Equal digests at equal positions, and every stream of a leader and a follower equal to the file.
    async fn compare_states(&mut self) -> Result<()> {
        let begun = Instant::now();
        let digests = loop {
            let mut digests = Vec::new();
            for node in 0..NODES {
                digests.push(self.cluster.client(node).await?.digest().await?);
            }
            if digests.iter().all(|digest| digest.applied == digests[LEADER].applied) {
                break digests;
            }
            ensure!(begun.elapsed() < PATIENCE, "the nodes do not come to the same position: {digests:?}");
            tokio::time::sleep(LOOK).await;
        };
        ensure!(
            digests.iter().all(|digest| digest.digest == digests[LEADER].digest),
            "the states differ at position {}: {digests:?}",
            digests[LEADER].applied
        );
        self.figures.applied = digests[LEADER].applied.get();
        self.figures.digest = hex(&digests[LEADER].digest);
        self.say(&format!("the states of all nodes at position {}: {}", self.figures.applied, self.figures.digest));
        for node in [LEADER, FOLLOWER] {
            let client = self.cluster.client(node).await?;
            self.expected.compare(&client).await.with_context(|| format!("node {}", node + 1))?;
            self.say(&format!("node {}: every stream equals the file, row by row", node + 1));
        }
        Ok(())
    }

    async fn load_again(&mut self) -> Result<()> {
        let summary = self.load(None)?.finish(|_| ()).await?;
        let sent = summary.get("sent").and_then(Value::as_u64);
        ensure!(sent == Some(0), "the same load again sent {sent:?} rows");
        self.say("the same load again adds nothing");
        Ok(())
    }

    async fn compare_logs(&mut self) -> Result<()> {
        let mut wire_bytes = self.cluster.wire_bytes_ended();
        let leader = self.cluster.until(LEADER, "answers", |_| true).await?;
        for node in 0..NODES {
            let status = self.cluster.until(node, "has all of the log", |status| status.durable == leader.end).await?;
            wire_bytes += status.wire_bytes_sent;
        }
        self.cluster.stop().await?;
        self.say("all nodes have stopped");
        let mut logs = Vec::new();
        for node in 0..NODES {
            logs.push(batches(&self.cluster.data(node)).await?);
        }
        ensure!(!logs[LEADER].is_empty(), "the leader's log is empty");
        for node in 1..NODES {
            same(&logs[LEADER], &logs[node], (LEADER + 1, node + 1))?;
        }
        let batches = &logs[LEADER];
        self.figures.batches = batches.len() as u64;
        self.figures.log_bytes = batches.iter().map(|batch| batch.bytes).sum();
        self.figures.raw_bytes = batches.iter().map(|batch| batch.raw_bytes).sum();
        self.figures.wire_bytes = wire_bytes;
        self.say(&format!(
            "the logs of all nodes are the same, byte by byte: {} batches\n",
            count(self.figures.batches)
        ));
        Ok(())
    }
}
