use super::*;
use crate::model::call::{Answer, Call};
use crate::model::codec;
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::request::{Request, RequestBody, Response, ResponseBody};
use crate::model::subscription::{Delivery, Subscribe};
use crate::model::{Filter, Since, Write};
use crate::node::deliveries::Subscriber;
use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, bounded};
use std::pin::Pin;
use std::task::{Context, Wake, Waker};
use tokio::time::timeout;
use towline_net::driver::{ConnectionHandle, EventReceiver};
use towline_net::{ConnectionConfig, Event, Identity, Lane, Limits, SendFlags, StreamId, StreamKind};

#[path = "servers_test.rs"]
mod servers;

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
        Self::connect_within(address, Limits::for_messages(MESSAGE_BYTES_MAX as u64)).await
    }

    async fn connect_within(address: SocketAddr, limits: Limits) -> Self {
        let identity = Identity { cluster: [0; 16], node: 0, directory: [0; 16], incarnation: 1, role: Role::Client };
        let (sink, events) = EventSink::channel(16);
        let mut config = ConnectionConfig::new(identity, [9; 16]);
        config.limits = limits;
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
        self.ask_within(stream, id, 0, body).await;
    }

    async fn ask_within(&self, stream: StreamId, id: u64, deadline_ms: u32, body: RequestBody) {
        self.ask_of("default", stream, id, deadline_ms, body).await;
    }

    async fn ask_of(&self, namespace: &str, stream: StreamId, id: u64, deadline_ms: u32, body: RequestBody) {
        let request = Request { id, deadline_ms, namespace: namespace.into(), body };
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
    with_runtime(|asker, server, _theirs| test(asker, server));
}

/// The same, with the runtime of the server.
fn with_runtime<F: Future<Output = ()>>(test: impl FnOnce(Asker, Server, tokio::runtime::Handle) -> F) {
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
        test(asker, handle.server.clone(), handle.runtime.handle().clone()).await;
    });
    drop(runtime);
    handle.shutdown().unwrap();
}

async fn all_of(places: &Arc<Semaphore>, count: usize) -> tokio::sync::OwnedSemaphorePermit {
    Arc::clone(places).acquire_many_owned(u32::try_from(count).unwrap()).await.unwrap()
}

/// Holds up whoever wakes it, until the gate opens, which is when its other end is dropped.
struct Holding {
    held: Sender<()>,
    gate: Receiver<()>,
}

impl Wake for Holding {
    fn wake(self: Arc<Self>) {
        self.held.send(()).unwrap();
        // It is never sent on.
        self.gate.recv().unwrap_err();
    }
}

/// Holds up the thread that answers writes, until what this returns is dropped.
fn hold_up_outcomes(server: &Server) -> Sender<()> {
    let ((held, is_held), (opens, gate)) = (bounded(1), bounded(0));
    let waker = Waker::from(Arc::new(Holding { held, gate }));
    loop {
        let mut receipt = server.node.default_namespace().put("held", "1").unwrap();
        // Some are answered before anybody waits for them.
        if Pin::new(&mut receipt).poll(&mut Context::from_waker(&waker)).is_pending() {
            is_held.recv().unwrap();
            return opens;
        }
    }
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

/// A log that stands still would have the threads of a server taken by those who begin sessions, and nobody could read.
#[test]
fn sessions_that_hang_keep_their_places_and_no_more_threads_than_there_are_of_these() {
    const TOO_MANY: usize = 5;
    with_server(|mut asker, server| async move {
        let stream = asker.open(StreamKind::Request);
        let opens = hold_up_outcomes(&server);
        let open = || RequestBody::Call(Call::OpenSession);
        for id in 0..OPENING_MAX + TOO_MANY {
            asker.ask_within(stream, id as u64, 50, open()).await;
        }
        let (mut unknown, mut not_begun) = (0, 0);
        for _ in 0..OPENING_MAX + TOO_MANY {
            match asker.response().await.1 {
                ResponseBody::Failed(failure) if failure.no_side_effects => not_begun += 1,
                ResponseBody::Failed(failure) if failure.code == 8004 => unknown += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((unknown, not_begun), (OPENING_MAX, TOO_MANY));
        assert_eq!(server.opening.available_permits(), 0, "their clients have an answer, their threads have none");
        asker.ask(stream, 1000, GET()).await;
        assert!(matches!(asker.response().await, (1000, ResponseBody::Value { .. })));
        asker.ask_within(stream, 1001, 50, RequestBody::Call(Call::CloseSession { ids: Vec::new() })).await;
        assert!(matches!(asker.response().await, (1001, ResponseBody::Failed(failure)) if failure.no_side_effects));
        drop(opens);
        drop(timeout(PATIENCE, all_of(&server.opening, OPENING_MAX)).await.unwrap());
        asker.ask(stream, 1002, open()).await;
        assert!(matches!(asker.response().await, (1002, ResponseBody::Answer(Answer::Session(_)))));
    });
}

#[test]
fn the_status_is_told_while_every_thread_that_could_read_is_busy() {
    // More than a runtime has.
    const BUSY: usize = 1024;
    with_runtime(|mut asker, _server, theirs| async move {
        let stream = asker.open(StreamKind::Request);
        let (release, gate) = bounded::<()>(0);
        for _ in 0..BUSY {
            let gate = gate.clone();
            theirs.spawn_blocking(move || gate.recv());
        }
        asker.ask(stream, 1, GET()).await;
        timeout(MOMENT, asker.message()).await.expect_err("there is no thread for it");
        asker.ask(stream, 2, RequestBody::Status).await;
        assert!(matches!(asker.response().await, (2, ResponseBody::Status(_))));
        drop(release);
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

/// The send buffer has room for forty megabytes of what nobody takes; of a thousand feeds that would be all the memory there is.
#[test]
fn a_feed_whose_client_takes_nothing_looks_no_further_into_the_log_and_goes_on_when_it_takes() {
    // Together more than the client's window and what may wait.
    const CHANGES: usize = 40;
    const VALUE_BYTES: usize = 512 << 10;
    // What may wait when the log is looked at, a delivery more, and room for what is around its values.
    const QUEUED_MAX: u64 = (2 << 20) + (1 << 20) + (64 << 10);
    with_server(|_, server| async move {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), ListenerOptions::default()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let few = Limits {
            message_bytes_max: 2 << 20,
            stream_window: 4 << 20,
            connection_window: 8 << 20,
            ..Limits::DEFAULT
        };
        let client = tokio::spawn(Asker::connect_within(address, few));
        let (sink, mut events) = EventSink::channel(16);
        let identity = Identity { cluster: [7; 16], node: 1, directory: [1; 16], incarnation: 1, role: Role::Node };
        let mut config = ConnectionConfig::new(identity, [8; 16]);
        config.limits = Limits::for_messages(MESSAGE_BYTES_MAX as u64);
        let handle = listener.accept().await.unwrap().spawn(config, sink).unwrap();
        let mut client = client.await.unwrap();
        let subscribe = Subscribe::new("default", &Since::Now, &Filter::All).unwrap();
        client.send(client.open(StreamKind::Feed), codec::encode(&subscribe).unwrap()).await;
        let (stream, request) = loop {
            if let Event::Message { stream, bytes, .. } = events.recv().await.unwrap() {
                break (stream, bytes);
            }
        };
        let space = server.node.default_namespace();
        let access = server.door.of(Caller::new(None, address));
        let subscriber = Subscriber { handle: handle.clone(), stream };
        let delivering = tokio::spawn(server.deliver(access, subscriber, request));
        assert!(matches!(client.delivery().await, Delivery::Changes { changes, .. } if changes.is_empty()));
        for _ in 0..CHANGES {
            space.put("k", vec![7; VALUE_BYTES]).unwrap().await.unwrap();
        }
        let looks = async {
            let mut stuck = 0;
            // From when it is stuck on: it would go on at once.
            while stuck < 100 {
                let queued = handle.queued_bytes();
                stuck += usize::from(queued > QUEUED_MAX / 2);
                assert!(queued <= QUEUED_MAX, "{queued} bytes wait");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, looks).await.expect("more than the window was written");
        let mut taken = 0;
        while taken < CHANGES {
            match client.delivery().await {
                Delivery::Changes { changes, .. } => taken += changes.len(),
                other => panic!("{other:?}"),
            }
        }
        delivering.abort();
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
