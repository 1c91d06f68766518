//! [`Figures`]: the table at the end.

use crate::output::{count, pairs, size};
use serde_json::Value;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(super) events: u64,
    pub(super) streams: u64,
    pub(super) seconds: f64,
    pub(super) rate_asked: u64,
    pub(super) latency_ms: (f64, f64),
    pub(super) batches: u64,
    /// Of batches in one node's log, and of their payload before compression.
    pub(super) log_bytes: u64,
    pub(super) raw_bytes: u64,
    /// Sent between nodes, framing included, all lives of all nodes together.
    pub(super) wire_bytes: u64,
    pub(super) behind: u64,
    pub(super) catch_up: Duration,
    pub(super) unacked_at_follower_kill: f64,
    pub(super) unacked_at_leader_kill: f64,
    pub(super) in_doubt: u64,
    pub(super) found: u64,
    pub(super) leader_away: Duration,
    pub(super) digest: String,
    pub(super) applied: u64,
}

impl Figures {
    fn ratio(&self) -> f64 {
        self.raw_bytes as f64 / (self.log_bytes.max(1)) as f64
    }

    fn rate(&self) -> f64 {
        self.events as f64 / self.seconds.max(0.001)
    }

    pub(crate) fn table(&self) -> String {
        let per_batch = self.events as f64 / self.batches.max(1) as f64;
        // At a leisurely pace a batch is a record or two: not worth compressing, and each has a header.
        let note = if self.ratio() < 1.0 { "; at this pace batches are too small to compress" } else { "" };
        pairs(&[
            ("events", format!("{} in {} streams", count(self.events), count(self.streams))),
            (
                "acknowledged",
                format!(
                    "{:.0}/s over {:.1} s, kills included (paced at {}/s)",
                    self.rate(),
                    self.seconds,
                    self.rate_asked
                ),
            ),
            ("latency", format!("p50 {:.2} ms, p99 {:.2} ms", self.latency_ms.0, self.latency_ms.1)),
            (
                "log on each disk",
                format!("{} in {} batches ({per_batch:.1} records each)", size(self.log_bytes), count(self.batches)),
            ),
            ("compression", format!("{:.2} : 1 (records {}){note}", self.ratio(), size(self.raw_bytes))),
            ("wire between nodes", size(self.wire_bytes)),
            ("follower killed", format!("{:.0} % of rows unacknowledged", self.unacked_at_follower_kill * 100.0)),
            ("its catch-up", format!("{} records in {:.0} ms, under load", count(self.behind), millis(self.catch_up))),
            (
                "leader killed",
                format!(
                    "{:.0} % of rows unacknowledged, {} receipts in doubt ({} rows found stored), away for {:.0} ms",
                    self.unacked_at_leader_kill * 100.0,
                    self.in_doubt,
                    self.found,
                    millis(self.leader_away)
                ),
            ),
            ("identical", format!("3 logs, byte by byte; 3 states at {}: {}", count(self.applied), self.digest)),
        ])
    }

    pub(crate) fn object(&self) -> Value {
        serde_json::json!({
            "events": self.events,
            "streams": self.streams,
            "seconds": self.seconds,
            "acked_per_second": self.rate(),
            "rate_asked": self.rate_asked,
            "latency_ms": { "p50": self.latency_ms.0, "p99": self.latency_ms.1 },
            "batches": self.batches,
            "log_bytes": self.log_bytes,
            "raw_bytes": self.raw_bytes,
            "compression": self.ratio(),
            "wire_bytes": self.wire_bytes,
            "records_behind": self.behind,
            "catch_up_ms": millis(self.catch_up),
            "unacked_at_follower_kill": self.unacked_at_follower_kill,
            "unacked_at_leader_kill": self.unacked_at_leader_kill,
            "in_doubt": self.in_doubt,
            "found_stored": self.found,
            "leader_away_ms": millis(self.leader_away),
            "digest": self.digest,
            "applied": self.applied,
        })
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
