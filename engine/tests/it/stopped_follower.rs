//! A follower that reads everything and makes nothing durable: it costs the leader a window, and the producers nothing
//! while a majority keeps up.

use crate::cluster::{Cluster, until};
use bytes::Bytes;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use towline::control::ConfigMaster;
use towline::model::limits::{BATCH_BYTES_TARGET, FOLLOWER_WINDOW_BYTES, MESSAGE_BYTES_MAX};
use towline::model::{
    ClusterId, LogPosition, LogSummary, Lsn, Message, Operation, Received, Record, ReplicationStream,
};
use towline::node::SHARD;
use towline_net::driver::{ConnectionHandle, EventSink, Listener, ListenerOptions};
use towline_net::{ConnectionConfig, Event, Identity, Lane, Limits, Role, SendFlags, StreamId, StreamKind};

/// Node 3, as far as a leader can see: it greets and promises; then it holds everything and acknowledges nothing.
struct Stopped {
    runtime: Runtime,
    /// On each connection, in the newest epoch (the votes' disks may come into one of their own): with a new one the leader begins anew.
    received: Arc<Mutex<Vec<Arc<AtomicUsize>>>>,
}

impl Stopped {
    fn listen(cluster: ClusterId, port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let received = Arc::<Mutex<Vec<Arc<AtomicUsize>>>>::default();
        let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        let listener = runtime.block_on(Listener::bind(address, ListenerOptions::default())).unwrap();
        let counts = Arc::clone(&received);
        runtime.spawn(async move {
            let mut connections = Vec::new();
            loop {
                let incoming = listener.accept().await.unwrap();
                let log = ConfigMaster::lineage(cluster, SHARD);
                let stream = Mutex::new(ReplicationStream::new(SHARD, log));
                let count = Arc::new(AtomicUsize::new(0));
                counts.lock().push(Arc::clone(&count));
                let sink = EventSink::callback_with_handle(move |handle, event| match event {
                    // Whoever was dialled opens the streams.
                    Event::Ready { .. } => {
                        let opened = handle.open(StreamKind::Replication, Lane::Replication).unwrap();
                        say(handle, opened, stream.lock().greeting().unwrap());
                    }
                    Event::Message { stream: on, bytes, .. } => {
                        if let Ok(Received::Message(Message::Fence { epoch, .. })) = stream.lock().receive(&bytes) {
                            let summary = LogSummary { end: LogPosition::origin(log), epochs: Vec::new() };
                            let promise = Message::Promise {
                                epoch,
                                log: summary,
                                suspect: None,
                                committed: Lsn::ZERO,
                                votes: None,
                            };
                            say(handle, on, promise.encode().unwrap());
                            count.store(0, Ordering::Relaxed);
                        }
                        count.fetch_add(bytes.len(), Ordering::Relaxed);
                    }
                    _ => {}
                });
                let cluster = *cluster.as_bytes();
                let identity = Identity { cluster, node: 3, directory: [3; 16], incarnation: 1, role: Role::Node };
                let mut config = ConnectionConfig::new(identity, [9; 16]);
                config.limits = Limits::for_messages(MESSAGE_BYTES_MAX as u64);
                connections.push(incoming.spawn(config, sink).unwrap());
            }
        });
        Self { runtime, received }
    }

    /// On the connection that was sent the most.
    fn received(&self) -> usize {
        self.received.lock().iter().map(|count| count.load(Ordering::Relaxed)).max().unwrap_or(0)
    }
}

fn say(handle: &ConnectionHandle, stream: StreamId, bytes: Bytes) {
    handle.try_send(stream, bytes, SendFlags::default()).unwrap();
}

#[test]
fn a_stopped_follower_costs_a_window_and_producers_feel_only_a_slow_majority() {
    let mut cluster = Cluster::without(2);
    let stopped = Stopped::listen(cluster.id(), cluster.port(2));
    until("the leader serves", || cluster.server(0).node().is_serving());
    let write = |cluster: &Cluster, number: u32| {
        // Not alike, so that they do not shrink.
        let value: Vec<u8> =
            (0..65_536_u32).flat_map(|at| (at.wrapping_mul(2_654_435_761) ^ number).to_le_bytes()).collect();
        let put = Operation::Put { key: Bytes::from(number.to_string()), value: value.into() };
        cluster.server(0).node().default_namespace().write(Record::of(vec![put])).unwrap()
    };
    // Eight windows: a majority of two takes them all.
    let writes = u32::try_from(8 * FOLLOWER_WINDOW_BYTES / (256 * 1024)).unwrap();
    let receipts: Vec<_> = (0..writes).map(|number| write(&cluster, number)).collect();
    for receipt in receipts {
        assert!(receipt.wait_for(Duration::from_secs(60)).unwrap().is_some(), "an answer in time");
    }
    until("the window is used", || stopped.received() >= FOLLOWER_WINDOW_BYTES / 2);
    let most = FOLLOWER_WINDOW_BYTES + 2 * BATCH_BYTES_TARGET;
    assert!(stopped.received() <= most, "{} bytes were sent to a follower that acknowledges none", stopped.received());
    // The majority stops as well: now writes wait.
    cluster.stop(1);
    let receipt = write(&cluster, writes);
    assert_eq!(receipt.wait_for(Duration::from_millis(300)).unwrap(), None, "I1: one of three is no majority");
    cluster.start(1);
    assert!(receipt.wait_for(Duration::from_secs(60)).unwrap().is_some());
    (0..2).for_each(|index| cluster.stop(index));
    stopped.runtime.shutdown_timeout(Duration::from_secs(5));
}

/// It was dialled thirty times a second, and all shards of the two nodes began anew as often.
#[test]
#[expect(clippy::disallowed_methods, reason = "what is done in a time is counted")]
fn a_peer_that_ends_each_connection_at_once_is_dialled_more_and_more_rarely() {
    let mut cluster = Cluster::without(2);
    let id = *cluster.id().as_bytes();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address: SocketAddr = format!("127.0.0.1:{}", cluster.port(2)).parse().unwrap();
    let listener = runtime.block_on(Listener::bind(address, ListenerOptions::default())).unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    runtime.spawn(async move {
        loop {
            let incoming = listener.accept().await.unwrap();
            let identity = Identity { cluster: id, node: 3, directory: [3; 16], incarnation: 1, role: Role::Node };
            let mut config = ConnectionConfig::new(identity, [9; 16]);
            config.limits = Limits::for_messages(MESSAGE_BYTES_MAX as u64);
            let handle = incoming.spawn(config, EventSink::callback_with_handle(|_, _| {})).unwrap();
            if handle.ready().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
            handle.close();
        }
    });
    until("it is dialled", || connections.load(Ordering::Relaxed) > 0);
    std::thread::sleep(Duration::from_secs(3));
    // Two nodes dial it.
    let dialled = connections.load(Ordering::Relaxed);
    assert!(dialled <= 40, "{dialled} connections in three seconds");
    (0..2).for_each(|index| cluster.stop(index));
    runtime.shutdown_timeout(Duration::from_secs(5));
}
