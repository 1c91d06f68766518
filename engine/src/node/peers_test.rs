//! The streams of one connection, whose other end is in the test's hands.

use super::super::inbox::Events;
use super::*;
use crate::model::LogPosition;
use crate::node::{Config, Node, NodeOptions};
use crate::pipeline::{Ready, SubmissionQueue};
use std::path::Path;
use towline_net::Side;
use towline_net::driver::spawn;
use towline_wal::{BatchBuilder, BatchKind, Block, Compression};

const LOG: LogId = LogId::new(7);
const SHARDS: [ShardId; 2] = [ShardId::new(1024), ShardId::new(2048)];
const PEER: NodeId = NodeId::new(2);

const CONFIG: &str = r#"cluster = "0193aabb-ccdd-7eff-8000-010203040506"
node_id = 1
data_dir = "data"
listen = "127.0.0.1:0"
[shard]
leader = 1
[[node]]
id = 1
address = "127.0.0.1:7401"
"#;

/// A node's side: two shards, and where each hears of the peer.
struct Near {
    network: Network,
    hear: Vec<Events>,
}

impl Near {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let (mut shards, mut hear) = (BTreeMap::new(), Vec::new());
        for shard in SHARDS {
            let bell = Ready::new().bell(shard);
            let (inbox, events) = Inbox::new(Arc::new(SubmissionQueue::new(8, 1 << 20, Arc::clone(&bell))), bell);
            shards.insert(shard, Replicated { named: LOG, events: inbox });
            hear.push(events);
        }
        let config = Config::parse(Path::new("node.toml"), CONFIG).unwrap();
        let network = Network {
            identity: *node.identity(),
            incarnation: 1,
            shards: Arc::new(shards),
            sessions: Arc::default(),
            transport: Transport::open(&config).unwrap(),
        };
        node.close().unwrap();
        Self { network, hear }
    }

    fn streams<'a>(&'a self, handle: &'a ConnectionHandle) -> Streams<'a> {
        let (links, unknown, ungreeted) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Streams { network: &self.network, peer: PEER, session: 7, handle, links, unknown, ungreeted }
    }
}

/// Both ends of a connection that holds little.
async fn connected() -> [(ConnectionHandle, EventReceiver); 2] {
    let (near, far) = tokio::io::duplex(1024);
    let end = |io, side, node| {
        let identity =
            towline_net::Identity { cluster: [1; 16], node, directory: [9; 16], incarnation: 1, role: Role::Node };
        let mut config = ConnectionConfig::new(identity, [node as u8; 16]);
        config.limits = Limits {
            frame_bytes_max: 1024,
            stream_window: 16 << 10,
            connection_window: 64 << 10,
            message_bytes_max: 12 << 10,
            streams_max: 16,
            send_buffer_max: 256 << 10,
        };
        let (sink, events) = EventSink::channel(EVENTS_WAITING);
        (spawn(io, side, config, sink).unwrap(), events)
    };
    let (near, far) = (end(near, Side::Dialer, 1), end(far, Side::Acceptor, 2));
    near.0.ready().await.unwrap();
    far.0.ready().await.unwrap();
    [near, far]
}

/// The peer opens a stream for each shard, and greets. Gives what arrives of that: the streams, each with its greeting.
async fn greeted(
    far: &ConnectionHandle,
    streams: &mut Streams<'_>,
    events: &mut EventReceiver,
) -> Vec<(StreamId, Bytes, usize)> {
    for shard in SHARDS {
        let stream = far.open(StreamKind::Replication, Lane::Replication).unwrap();
        far.try_send(stream, ReplicationStream::new(shard, LOG).greeting().unwrap(), SendFlags::default()).unwrap();
    }
    let mut greetings = Vec::new();
    while greetings.len() < SHARDS.len() {
        match events.recv().await.unwrap() {
            NetEvent::Opened { stream, .. } => drop(streams.unknown.insert(stream)),
            NetEvent::Message { stream, bytes, charge, .. } => greetings.push((stream, bytes, charge)),
            _ => {}
        }
    }
    greetings
}

/// Whatever is as long as a greeting finds no room.
fn fill(link: &Arc<NetPeer>) {
    for bytes in [4000, 1] {
        while matches!(link.send(vec![0; bytes].into()), Sending::Queued) {}
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// All connections between two nodes are one: where some shards had filled its buffer, the first greeting that found no room closed it
/// for all of them, again and again.
#[test]
fn a_greeting_that_finds_no_room_waits_for_some_and_nobody_hears_of_the_peer_before() {
    let near = Near::new();
    run(async {
        let [(handle, mut events), (far, mut far_events)] = connected().await;
        let mut streams = near.streams(&handle);
        let greetings = greeted(&far, &mut streams, &mut events).await;
        let [(first, hello, charge), (second, second_hello, second_charge)] = &greetings[..] else {
            panic!("one of each shard")
        };
        assert!(streams.message(*first, hello, *charge));
        assert!(matches!(near.hear[0].next(), Some(Event::PeerUp(PEER, ..))));
        let link = Arc::clone(&streams.links[first]);
        fill(&link);

        assert!(streams.message(*second, second_hello, *second_charge), "the connection stands");
        assert!(near.hear[1].next().is_none());
        // The other end reads.
        let watched = *second;
        let heard = tokio::spawn(async move {
            while let Some(event) = far_events.recv().await {
                if let NetEvent::Message { stream, bytes, charge, .. } = event {
                    far.consumed(stream, charge);
                    if stream == watched {
                        return bytes;
                    }
                }
            }
            Bytes::new()
        });
        while near.hear[1].is_empty() {
            if let NetEvent::Writable { stream } = events.recv().await.unwrap() {
                assert!(streams.writable(stream));
            }
        }
        assert!(matches!(near.hear[1].next(), Some(Event::PeerUp(PEER, ..))));
        assert_eq!(heard.await.unwrap(), ReplicationStream::new(SHARDS[1], LOG).greeting().unwrap());
    });
}

/// It says more before it is greeted back.
#[test]
fn a_peer_that_does_not_wait_to_be_greeted_is_cut_off() {
    let near = Near::new();
    run(async {
        let [(handle, mut events), (far, _far_events)] = connected().await;
        let mut streams = near.streams(&handle);
        let greetings = greeted(&far, &mut streams, &mut events).await;
        let [(first, hello, charge), (second, second_hello, second_charge)] = &greetings[..] else {
            panic!("one of each shard")
        };
        assert!(streams.message(*first, hello, *charge));
        let link = Arc::clone(&streams.links[first]);
        fill(&link);
        assert!(streams.message(*second, second_hello, *second_charge));
        assert!(!streams.message(*second, second_hello, *second_charge));
    });
}

/// Otherwise all shards of the two nodes would begin anew, as often as it is fed the same again.
#[test]
fn a_batch_that_can_not_be_applied_ends_the_stream_of_its_shard_and_no_other() {
    let near = Near::new();
    run(async {
        let [(handle, mut events), (far, _far_events)] = connected().await;
        let mut streams = near.streams(&handle);
        let greetings = greeted(&far, &mut streams, &mut events).await;
        for (place, (stream, hello, charge)) in greetings.iter().enumerate() {
            assert!(streams.message(*stream, hello, *charge));
            assert!(matches!(near.hear[place].next(), Some(Event::PeerUp(PEER, ..))));
        }
        let (epoch, prev) = (Epoch::new(1, 1), LogPosition::origin(LOG));
        let block = Block::encode("no record".into(), 1, Compression::Never);
        let batch = BatchBuilder::new(LOG, BatchKind::Data, epoch, prev, 0).block(block).seal().unwrap();
        let append = Message::Append { epoch, prev, commit: Lsn::ZERO, batches: vec![batch] }.encode().unwrap();
        assert!(streams.message(greetings[0].0, &append, 0), "the connection stands");
        assert!(matches!(near.hear[0].next(), Some(Event::PeerDown(PEER, 7))));
        assert!(near.hear[0].next().is_none() && near.hear[1].next().is_none());
        assert_eq!(streams.links.keys().collect::<Vec<_>>(), [&greetings[1].0]);
        // Whatever comes of it still is nobody's.
        assert!(streams.message(greetings[0].0, &append, 0));
        assert!(near.hear[0].next().is_none());
    });
}
