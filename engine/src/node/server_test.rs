use super::*;
use crate::model::call::{Answer, Call};
use crate::model::codec;
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::request::{Request, RequestBody, Response, ResponseBody};
use crate::model::subscription::{Delivery, Subscribe};
use crate::model::{Filter, Since, Write};
use bytes::Bytes;
use tokio::time::timeout;
use towline_net::driver::{ConnectionHandle, EventReceiver};
use towline_net::{ConnectionConfig, Event, Identity, Lane, Limits, SendFlags, StreamId, StreamKind};

/// Long enough for an answer to come, if one comes; nothing is measured by it.
const MOMENT: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(30);

/// A client by hand: floors above this one have a better one.
struct Asker {
    handle: ConnectionHandle,
    events: EventReceiver,
}

impl Asker {
    async fn connect(address: SocketAddr) -> Self {
        let identity = Identity { cluster: [0; 16], node: 0, directory: [0; 16], incarnation: 1, role: Role::Client };
        let (sink, events) = EventSink::channel(16);
        let mut config = ConnectionConfig::new(identity, [9; 16]);
        config.limits = Limits::for_messages(MESSAGE_BYTES_MAX as u64);
        let handle = towline_net::driver::connect(address, config, sink).await.unwrap();
        handle.ready().await.unwrap();
        Self { handle, events }
    }

    fn open(&self, kind: StreamKind) -> StreamId {
        self.handle.open(kind, Lane::Request).unwrap()
    }

    async fn send(&self, stream: StreamId, bytes: Bytes) {
        self.handle.send(stream, bytes, SendFlags::default()).await.unwrap();
    }

    async fn ask(&self, stream: StreamId, id: u64, body: RequestBody) {
        let request = Request { id, deadline_ms: 0, namespace: "default".into(), body };
        self.send(stream, codec::encode(&request).unwrap()).await;
    }

    async fn message(&mut self) -> Bytes {
        loop {
            match self.events.recv().await.unwrap() {
                Event::Message { stream, bytes, charge, .. } => {
                    self.handle.consumed(stream, charge);
                    return bytes;
                }
                Event::Closed { reason } => panic!("{reason}"),
                _ => {}
            }
        }
    }

    async fn response(&mut self) -> (u64, ResponseBody) {
        let bytes = timeout(PATIENCE, self.message()).await.unwrap();
        let Response { id, body } = codec::decode(&bytes).unwrap();
        (id, body)
    }

    async fn delivery(&mut self) -> Delivery {
        codec::decode(&timeout(PATIENCE, self.message()).await.unwrap()).unwrap()
    }
}

fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Asker, Server) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
                shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
    let handle = serve(&Config::parse(&directory.path().join("node.toml"), text).unwrap()).unwrap();
    while !handle.node().is_serving() {
        std::thread::yield_now();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let asker = Asker::connect(handle.address()).await;
        test(asker, handle.server.clone()).await;
    });
    drop(runtime);
    handle.shutdown().unwrap();
}

async fn all_of(places: &Arc<Semaphore>, count: usize) -> tokio::sync::OwnedSemaphorePermit {
    Arc::clone(places).acquire_many_owned(u32::try_from(count).unwrap()).await.unwrap()
}

const GET: fn() -> RequestBody = || RequestBody::Get { key: b"k".to_vec() };

/// Opening waits for the log, and would wait for reads that wait for the disk.
#[test]
fn sessions_begin_and_the_status_is_told_while_all_places_for_reads_are_taken() {
    with_server(|mut asker, server| async move {
        let stream = asker.open(StreamKind::Request);
        let all = all_of(&server.reading, READS_MAX).await;
        asker.ask(stream, 1, GET()).await;
        timeout(MOMENT, asker.message()).await.expect_err("there is no place for it");
        asker.ask(stream, 2, RequestBody::Call(Call::OpenSession)).await;
        assert!(matches!(asker.response().await, (2, ResponseBody::Answer(Answer::Session(_)))));
        asker.ask(stream, 3, RequestBody::Status).await;
        assert!(matches!(asker.response().await, (3, ResponseBody::Status(_))));
        drop(all);
        assert!(matches!(asker.response().await, (1, ResponseBody::Value { .. })));
    });
}

#[test]
fn feeds_wait_for_their_turn_to_look_at_the_log_and_hold_up_nothing_else() {
    with_server(|mut asker, server| async move {
        let (stream, feed) = (asker.open(StreamKind::Request), asker.open(StreamKind::Feed));
        let all = all_of(&server.scanning, SCANNING_MAX).await;
        let subscribe = Subscribe::new("default", &Since::Now, &Filter::All).unwrap();
        asker.send(feed, codec::encode(&subscribe).unwrap()).await;
        timeout(MOMENT, asker.message()).await.expect_err("it is not its turn");
        asker.ask(stream, 1, GET()).await;
        assert!(matches!(asker.response().await, (1, ResponseBody::Value { .. })));
        drop(all);
        let changes = |delivery| match delivery {
            Delivery::Changes { changes, .. } => changes.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(changes(asker.delivery().await), 0, "where it begins");
        for _ in 0..3 {
            // Between two looks it has no turn.
            let all = timeout(PATIENCE, all_of(&server.scanning, SCANNING_MAX)).await.unwrap();
            server.node.default_namespace().put("k", "1").unwrap().await.unwrap();
            timeout(MOMENT, asker.message()).await.expect_err("it is not its turn");
            drop(all);
            assert_eq!(changes(asker.delivery().await), 1);
        }
    });
}

/// The answers of its reads filled the buffer, and its connection was closed for want of room for the answer of a write.
#[test]
fn a_client_that_takes_its_answers_late_hears_of_its_writes_as_well() {
    // Together more than the windows and the buffers of both ends hold; and more answers than fit behind the last read's.
    const READS: u64 = 3000;
    const WRITES: u64 = 3000;
    with_server(|mut asker, server| async move {
        server.node.default_namespace().put("k", vec![7; 64 << 10]).unwrap().await.unwrap();
        let stream = asker.open(StreamKind::Request);
        for id in 0..READS {
            asker.ask(stream, id, GET()).await;
        }
        // Until the buffers are full; if they are not yet, less is tried.
        tokio::time::sleep(MOMENT * 5).await;
        let record = Write::new().put("w", "1").record().encode().unwrap().to_vec();
        for id in READS..READS + WRITES {
            asker.ask(stream, id, RequestBody::Write { record: record.clone() }).await;
        }
        // Until the writes are answered: each by an answer that has to find room now.
        tokio::time::sleep(MOMENT).await;
        let mut heard = std::collections::BTreeSet::new();
        for _ in 0..READS + WRITES {
            heard.insert(asker.response().await.0);
        }
        assert_eq!(heard.len() as u64, READS + WRITES);
    });
}
