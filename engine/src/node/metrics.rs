//! The node's numbers for whatever collects metrics in the program around it: a bridge to the crate `metrics`.
//!
//! Nothing here exports anything, and nothing on the path of a write knows of it: whoever scrapes calls [`NodeStats::publish`]
//! before. Names begin with `towline_`; times are in seconds, sizes in bytes.

#[cfg(feature = "cluster")]
use super::server_stats::ServerStats;
use super::stages::{Distribution, LaneStats};
use super::stats::{NodeStats, ShardStats};
use crate::state::RocksTimes;
use metrics::{Label, counter, gauge};
use std::time::UNIX_EPOCH;

impl NodeStats {
    /// Sets the metrics of the program's recorder to these numbers: counters to what was counted since the node was opened,
    /// gauges to what is. A program with several nodes tells them apart by `node`. What a dropped namespace told last stays: recorders
    /// forget by age, if at all.
    ///
    /// ```
    /// # use towline::node::{Node, NodeOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let node = Node::open(NodeOptions::alone(directory.path()))?;
    /// // A program that has installed a recorder does this before each scrape:
    /// node.stats()?.publish("main");
    /// # node.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish(&self, node: &str) {
        let labels = vec![Label::new("node", node.to_owned())];
        self.publish_log(&labels);
        self.publish_scrub(&labels);
        self.publish_state(&labels);
        for (number, lane) in self.lanes.iter().enumerate() {
            publish_lane(&with(&labels, "lane", number.to_string()), lane);
        }
        for shard in &self.shards {
            let labels = with(&labels, "namespace", shard.namespace.to_string());
            publish_shard(&with(&labels, "shard", shard.shard.to_string()), shard);
        }
    }

    fn publish_state(&self, labels: &[Label]) {
        let state = &self.state;
        set(labels, "towline_state_memory_bytes", state.memory_bytes);
        set(labels, "towline_state_file_bytes", state.file_bytes);
        set(labels, "towline_state_large_value_files", state.large_value_files);
        set(labels, "towline_state_cache_bytes", state.cache_bytes);
        set(labels, "towline_state_compaction_pending_bytes", state.compaction_pending_bytes);
        set(labels, "towline_state_snapshots", state.snapshots);
        set(labels, "towline_state_write_stopped", u64::from(state.is_write_stopped));
        count(labels, "towline_state_background_errors_total", state.background_errors);
        count(labels, "towline_state_cache_hits_total", state.cache_hits);
        count(labels, "towline_state_cache_misses_total", state.cache_misses);
        count(labels, "towline_state_filter_hits_total", state.filter_hits);
        count(labels, "towline_state_flushed_bytes_total", state.flushed_bytes);
        count(labels, "towline_state_compaction_read_bytes_total", state.compaction_read_bytes);
        count(labels, "towline_state_compaction_written_bytes_total", state.compaction_written_bytes);
        count(labels, "towline_state_stall_microseconds_total", state.stall_micros);
        let works = [
            ("get", &state.get),
            ("seek", &state.seek),
            ("commit", &state.commit),
            ("flush", &state.flush),
            ("compaction", &state.compaction),
            ("file_read", &state.file_read),
            ("stall", &state.stall),
        ];
        for (work, times) in works {
            publish_times(&with(labels, "work", work.to_owned()), times);
        }
    }

    fn publish_scrub(&self, labels: &[Label]) {
        let scrub = &self.scrub;
        count(labels, "towline_scrub_passes_total", scrub.passes);
        count(labels, "towline_scrub_bytes_total", scrub.bytes);
        count(labels, "towline_scrub_damaged_ranges_total", scrub.damaged_ranges);
        set(labels, "towline_scrub_last_pass_damaged_ranges", scrub.last_pass_damaged_ranges);
        let last = scrub.last_pass.and_then(|last| last.duration_since(UNIX_EPOCH).ok());
        let last = last.unwrap_or_default().as_secs_f64();
        gauge!("towline_scrub_last_pass_timestamp_seconds", labels.iter()).set(last);
    }

    fn publish_log(&self, labels: &[Label]) {
        let log = &self.log;
        count(labels, "towline_log_groups_total", log.groups);
        count(labels, "towline_log_syncs_total", log.syncs);
        count(labels, "towline_log_group_bytes_total", log.group_bytes);
        count(labels, "towline_log_batch_bytes_total", log.batch_bytes);
        set(labels, "towline_log_segments", log.segments as u64);
        set(labels, "towline_log_segment_bytes", log.segments_bytes);
        set(labels, "towline_log_live_bytes", log.live_bytes);
        set(labels, "towline_log_queue_bytes", log.queue_bytes as u64);
        set(labels, "towline_log_index_bytes", log.index_bytes as u64);
        set(labels, "towline_log_disk_full", u64::from(log.disk_full));
        set(labels, "towline_log_poisoned", u64::from(log.poisoned));
        let waiting = self.log_waiting.unwrap_or_default().as_secs_f64();
        gauge!("towline_log_device_waiting_seconds", labels.iter()).set(waiting);
    }
}

#[cfg(feature = "cluster")]
impl ServerStats {
    /// As [`NodeStats::publish`], of what clients do.
    ///
    /// ```
    /// # use towline::node::{Config, serve};
    /// # let directory = tempfile::tempdir()?;
    /// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
    /// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
    /// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
    /// server.stats().publish("main");
    /// # server.shutdown()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish(&self, node: &str) {
        let labels = [Label::new("node", node.to_owned())];
        set(&labels, "towline_server_clients", self.clients as u64);
        set(&labels, "towline_server_requests", self.requests as u64);
        set(&labels, "towline_server_feeds", self.feeds as u64);
        count(&labels, "towline_server_denied_total", self.denied);
        count(&labels, "towline_server_assignments_total", self.assignments);
        set(&labels, "towline_server_held_bytes", self.held_bytes);
        count(&labels, "towline_server_ended_for_memory_total", self.ended_for_memory);
        let connections = &self.connections;
        set(&labels, "towline_server_connections", connections.connections);
        set(&labels, "towline_server_connections_pending", connections.pending);
        count(&labels, "towline_server_connections_accepted_total", connections.accepted);
        for (reason, refused) in [
            ("connections", connections.refused_connections),
            ("pending", connections.refused_pending),
            ("address_connections", connections.refused_address_connections),
            ("address_pending", connections.refused_address_pending),
        ] {
            count(&with(&labels, "reason", reason.to_owned()), "towline_server_connections_refused_total", refused);
        }
        for (name, by_code) in [
            ("towline_server_handshakes_failed_total", &connections.handshakes_failed),
            ("towline_server_connections_ended_total", &connections.ended),
        ] {
            for (code, times) in by_code.iter() {
                count(&with(&labels, "code", format!("TW-{code}")), name, times);
            }
        }
    }
}

fn publish_lane(labels: &[Label], lane: &LaneStats) {
    let stages = [
        ("queue", &lane.queue),
        ("log", &lane.log),
        ("wait", &lane.wait),
        ("apply", &lane.apply),
        ("write", &lane.write),
    ];
    for (stage, times) in stages {
        summary(&with(labels, "stage", stage.to_owned()), "towline_stage_seconds", times, 1e-6);
    }
    summary(labels, "towline_batch_records", &lane.records, 1.0);
}

fn publish_shard(labels: &[Label], shard: &ShardStats) {
    set(labels, "towline_shard_serving", u64::from(shard.is_serving));
    set(labels, "towline_shard_failed", u64::from(shard.failure.is_some()));
    set(labels, "towline_shard_disk_full", u64::from(shard.full_disk.is_some()));
    set(labels, "towline_shard_released_lsn", shard.released.get());
    set(labels, "towline_shard_applied_lsn", shard.applied.get());
    set(labels, "towline_shard_durable_lsn", shard.durable.get());
    set(labels, "towline_shard_end_lsn", shard.end.get());
    set(labels, "towline_shard_queue_bytes", shard.queue_bytes as u64);
    set(labels, "towline_shard_queue_waiting", shard.queue_waiting as u64);
    set(labels, "towline_shard_pins", shard.pins as u64);
    set(labels, "towline_shard_damaged_ranges", shard.damaged_ranges as u64);
    count(labels, "towline_shard_batches_total", shard.batches);
    count(labels, "towline_shard_bytes_total", shard.bytes);
    count(labels, "towline_shard_records_total", shard.records);
    count(labels, "towline_shard_rejected_total", shard.rejected);
    count(labels, "towline_shard_snapshots_given_total", shard.snapshots_given);
    count(labels, "towline_shard_snapshot_given_bytes_total", shard.snapshot_bytes_given);
    count(labels, "towline_shard_snapshot_taken_bytes_total", shard.snapshot_bytes_taken);
    count(labels, "towline_shard_snapshot_damaged_parts_total", shard.snapshot_parts_damaged);
    count(labels, "towline_shard_snapshots_installed_total", shard.snapshots_installed);
}

fn publish_times(labels: &[Label], times: &RocksTimes) {
    let quantiles = [("0.5", times.median), ("0.95", times.p95), ("0.99", times.p99), ("1", times.max)];
    quantiles_of(labels, "towline_state_seconds", &quantiles, (times.count, times.sum), 1e-6);
}

fn summary(labels: &[Label], name: &'static str, of: &Distribution, unit: f64) {
    let quantiles = [("0.5", of.median), ("0.9", of.p90), ("0.99", of.p99), ("0.999", of.p999), ("1", of.max)];
    quantiles_of(labels, name, &quantiles, (of.count, of.sum), unit);
}

/// As Prometheus has a summary: some quantiles, how many, their sum.
fn quantiles_of(labels: &[Label], name: &'static str, quantiles: &[(&str, u64)], (count, sum): (u64, u64), unit: f64) {
    for (quantile, value) in quantiles {
        gauge!(name, with(labels, "quantile", (*quantile).to_owned()).iter()).set(as_f64(*value) * unit);
    }
    gauge!(format!("{name}_sum"), labels.iter()).set(as_f64(sum) * unit);
    counter!(format!("{name}_count"), labels.iter()).absolute(count);
}

fn set(labels: &[Label], name: &'static str, value: u64) {
    gauge!(name, labels.iter()).set(as_f64(value));
}

fn count(labels: &[Label], name: &'static str, value: u64) {
    counter!(name, labels.iter()).absolute(value);
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating: beyond 2^53 the last digits are lost")]
const fn as_f64(value: u64) -> f64 {
    value as f64
}

fn with(labels: &[Label], name: &'static str, value: String) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push(Label::new(name, value));
    labels
}

#[cfg(test)]
mod tests {
    use crate::node::{Node, NodeOptions, ScrubStats};
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use std::time::UNIX_EPOCH;

    #[cfg(feature = "cluster")]
    #[test]
    fn what_clients_do_reaches_the_recorder_of_the_program() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let stats = crate::node::ServerStats {
            clients: 3,
            requests: 5,
            feeds: 2,
            denied: 7,
            assignments: 8,
            held_bytes: 11,
            ended_for_memory: 13,
            connections: strangers(),
        };
        metrics::with_local_recorder(&recorder, || stats.publish("main"));
        let label = |key: &metrics::Key| key.labels().map(metrics::Label::value).skip(1).collect::<String>();
        let told = snapshotter.snapshot().into_vec().into_iter().map(|(key, .., value)| {
            let (name, label) = (key.key().name().trim_start_matches("towline_server_"), label(key.key()));
            match value {
                DebugValue::Gauge(value) => format!("{name} {label}= {value}"),
                DebugValue::Counter(value) => format!("{name} {label}+ {value}"),
                DebugValue::Histogram(_) => unreachable!("there are none"),
            }
        });
        let mut told: Vec<_> = told.collect();
        told.sort();
        let wanted = [
            "assignments_total + 8",
            "clients = 3",
            "connections = 0",
            "connections_accepted_total + 2",
            "connections_ended_total TW-3022+ 1",
            "connections_pending = 0",
            "connections_refused_total address_connections+ 0",
            "connections_refused_total address_pending+ 0",
            "connections_refused_total connections+ 0",
            "connections_refused_total pending+ 0",
            "denied_total + 7",
            "ended_for_memory_total + 13",
            "feeds = 2",
            "handshakes_failed_total TW-3001+ 1",
            "held_bytes = 11",
            "requests = 5",
        ];
        assert_eq!(told, wanted);
    }

    /// Of a listener that one stranger came to, and one client that has gone.
    #[cfg(feature = "cluster")]
    fn strangers() -> towline_net::driver::ListenerStats {
        use tokio::io::AsyncWriteExt as _;
        use towline_net::driver::{EventSink, Listener, ListenerOptions, connect};
        use towline_net::{ConnectionConfig, Identity, Role};
        let config = |node, role| {
            let who = Identity { cluster: [7; 16], node, directory: [7; 16], incarnation: 1, role };
            ConnectionConfig::new(who, [9; 16])
        };
        let ignored = || EventSink::callback(|_| ());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let any_port = "127.0.0.1:0".parse().unwrap();
            let listener = Listener::bind(any_port, ListenerOptions::default()).await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut stranger = tokio::net::TcpStream::connect(address).await.unwrap();
            stranger.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").await.unwrap();
            let server = listener.accept().await.unwrap().spawn(config(1, Role::Node), ignored()).unwrap();
            server.closed().await;
            let client = connect(address, config(0, Role::Client), ignored()).await.unwrap();
            let server = listener.accept().await.unwrap().spawn(config(1, Role::Node), ignored()).unwrap();
            client.ready().await.unwrap();
            server.ready().await.unwrap();
            client.close();
            server.closed().await;
            listener.stats()
        })
    }

    #[test]
    fn every_number_reaches_the_recorder_of_the_program() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        for number in 0..10 {
            node.default_namespace().put("k", number.to_string()).unwrap().wait().unwrap();
        }
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let mut stats = node.stats().unwrap();
        let last_pass = Some(UNIX_EPOCH + std::time::Duration::from_secs(9));
        stats.scrub = ScrubStats { passes: 3, bytes: 5, damaged_ranges: 7, last_pass, last_pass_damaged_ranges: 2 };
        metrics::with_local_recorder(&recorder, || stats.publish("main"));
        let told = snapshotter.snapshot().into_vec();
        let find = |name: &str, label: &str| {
            let is_it = |key: &metrics::Key| {
                key.name() == name && (label.is_empty() || key.labels().any(|found| found.value() == label))
            };
            told.iter().find(|(key, ..)| is_it(key.key())).map(|(.., value)| value)
        };
        assert_eq!(find("towline_shard_records_total", "main"), Some(&DebugValue::Counter(10)));
        assert_eq!(
            find("towline_stage_seconds_count", "write"),
            Some(&DebugValue::Counter(stats.lanes[0].write.count))
        );
        assert!(matches!(find("towline_stage_seconds", "apply"), Some(DebugValue::Gauge(seconds)) if seconds.0 < 60.0));
        assert_eq!(find("towline_shard_serving", "1024"), Some(&DebugValue::Gauge(1.0.into())));
        assert!(matches!(find("towline_log_syncs_total", ""), Some(DebugValue::Counter(syncs)) if *syncs > 0));
        assert_eq!(find("towline_state_seconds_count", "commit"), Some(&DebugValue::Counter(stats.state.commit.count)));
        assert!(stats.state.commit.count > 0);
        for (name, value) in [("passes", 3), ("bytes", 5), ("damaged_ranges", 7)] {
            let name = format!("towline_scrub_{name}_total");
            assert_eq!(find(&name, "main"), Some(&DebugValue::Counter(value)), "{name}");
        }
        for (name, value) in [("timestamp_seconds", 9.0_f64), ("damaged_ranges", 2.0)] {
            let name = format!("towline_scrub_last_pass_{name}");
            assert_eq!(find(&name, "main"), Some(&DebugValue::Gauge(value.into())), "{name}");
        }
        assert_eq!(find("towline_shard_damaged_ranges", "1024"), Some(&DebugValue::Gauge(0.0.into())));
        node.close().unwrap();
    }
}
