//! The parts of the write path, each by itself: records, blocks, batches, the ring, frames.

#![expect(clippy::expect_used, reason = "a benchmark that can't do its work stops")]

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use towline::model::{Expect, Operation, Record, ShardId};
use towline::pipeline::{Ready, Submission, SubmissionQueue, SubmitPolicy};
use towline_net::{Connection, ConnectionConfig, Event, Identity, Lane, Role, SendFlags, Side, StreamKind};
use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression, Epoch, LogId, LogPosition};

fn record(value: usize) -> Record {
    let line = b"2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,";
    let value: Vec<u8> = line.iter().copied().cycle().take(value).collect();
    Record::of(vec![Operation::Append {
        stream: Bytes::from_static(b"N14228"),
        expect: Expect::Version(7),
        metadata: Bytes::from_static(&[7; 40]),
        value: value.into(),
    }])
}

fn raw_block(records: u32, value: usize) -> Bytes {
    let mut raw = BytesMut::new();
    for _ in 0..records {
        record(value).encode_into(&mut raw).expect("a legal record");
    }
    raw.freeze()
}

fn batch(records: u32, value: usize, compression: Compression) -> Batch {
    let log = LogId::new(7);
    let block = Block::encode(raw_block(records, value), records, compression);
    let epoch = Epoch { version: 1024, term: 1 };
    BatchBuilder::new(log, BatchKind::Data, epoch, LogPosition::origin(log), 1).block(block).seal().expect("a batch")
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("record");
    for value in [128, 1024] {
        let record = record(value);
        let bytes = record.encode().expect("a legal record");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("encode/{value}"), |b| b.iter(|| black_box(&record).encode()));
        group.bench_function(format!("decode/{value}"), |b| {
            b.iter_batched(|| bytes.clone(), |mut bytes| Record::decode(&mut bytes), BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    for (name, compression) in [("raw", Compression::Never), ("zstd", Compression::WhereItPays)] {
        for (records, value) in [(1, 128), (64, 1024), (1024, 1024)] {
            let raw = raw_block(records, value);
            group.throughput(Throughput::Bytes(raw.len() as u64));
            group.bench_function(format!("encode/{name}/{records}x{value}"), |b| {
                b.iter(|| batch(records, value, compression));
            });
            let bytes = batch(records, value, compression).bytes().clone();
            group.bench_function(format!("decode/{name}/{records}x{value}"), |b| {
                b.iter(|| {
                    let batch = Batch::decode(black_box(bytes.clone())).expect("a batch");
                    batch.blocks().map(|block| block.decode(1 << 24).expect("a block").len()).sum::<usize>()
                });
            });
        }
    }
    group.finish();
}

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    let bytes = record(128).encode().expect("a legal record");
    let queue = SubmissionQueue::new(4096, 64 << 20, Ready::new().bell(ShardId::new(1)));
    group.throughput(Throughput::Elements(1));
    group.bench_function("push and pop/1 thread", |b| {
        b.iter(|| {
            queue.submit(Submission::record(bytes.clone(), ()), SubmitPolicy::Fail).expect("room");
            queue.pop().expect("what was pushed")
        });
    });
    group.finish();
}

fn joined() -> (Connection, Connection) {
    let identity = |node| Identity { cluster: [1; 16], node, directory: [2; 16], incarnation: 1, role: Role::Node };
    let config = |node| ConnectionConfig::new(identity(node), [u8::try_from(node).unwrap_or(0); 16]);
    let dialer = Connection::new(Side::Dialer, config(1), Duration::ZERO).expect("a legal configuration");
    let acceptor = Connection::new(Side::Acceptor, config(2), Duration::ZERO).expect("a legal configuration");
    (dialer, acceptor)
}

fn carry(from: &mut Connection, to: &mut Connection) -> bool {
    let mut moved = false;
    while let Some(slices) = from.poll_transmit(Duration::ZERO, 256 << 10) {
        moved = true;
        for slice in slices {
            to.receive(Duration::ZERO, &slice).expect("sound bytes");
        }
    }
    moved
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    for size in [128_usize, 64 << 10] {
        let (mut dialer, mut acceptor) = joined();
        while carry(&mut dialer, &mut acceptor) | carry(&mut acceptor, &mut dialer) {}
        while dialer.poll_event().is_some() {}
        let stream = dialer.open(StreamKind::Request, Lane::Request).expect("a stream");
        let message = Bytes::from(vec![5; size]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("send and receive/{size}"), |b| {
            b.iter(|| {
                dialer.send(stream, message.clone(), SendFlags::default()).expect("room");
                carry(&mut dialer, &mut acceptor);
                while let Some(event) = acceptor.poll_event() {
                    if let Event::Message { stream, charge, .. } = event {
                        acceptor.consumed(stream, charge);
                    }
                }
                carry(&mut acceptor, &mut dialer);
            });
        });
    }
    group.finish();
}

criterion_group!(parts, records, batches, ring, frames);
criterion_main!(parts);
