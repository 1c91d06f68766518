//! Durable writes: the bare log with 1, 8 and 64 producers, and one node end to end.

#![expect(clippy::expect_used, reason = "a benchmark that can't do its work stops")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use towline_bench::producers::{engine_writes, log_appends};

fn log(c: &mut Criterion) {
    let mut group = c.benchmark_group("wal append, durable");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    for bytes in [128, 1024] {
        for producers in [1, 8, 64] {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let bench = log_appends(directory.path(), producers, bytes).expect("a log");
            group.throughput(Throughput::Elements(1));
            group.bench_function(format!("{producers} producers x {bytes} B"), |b| {
                b.iter_custom(|count| bench.run(count).expect("appends"));
            });
        }
    }
    group.finish();
}

fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine, one node, committed and applied");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    for producers in [1, 8, 64] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bench = engine_writes(directory.path(), producers, 1024).expect("a node");
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{producers} producers x 1024 B"), |b| {
            b.iter_custom(|count| bench.run(count).expect("writes"));
        });
    }
    group.finish();
}

criterion_group!(durable, log, engine);
criterion_main!(durable);
