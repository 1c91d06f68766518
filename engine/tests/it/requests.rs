//! A client's streams, as the transport sees them: each half ends by itself, and takes nobody else's answer with it.

use crate::cluster::{Cluster, until};
use crate::raw::Raw;
use std::time::Duration;
use towline::model::Write;
use towline::model::call::{Answer, Call, Reach};
use towline::model::codec;
use towline::model::request::{Request, RequestBody, Response, ResponseBody};
use towline::node::{Config, serve};
use towline_net::driver::{self, EventReceiver, EventSink};
use towline_net::{ConnectionConfig, Event, Identity, Lane, ResetCode, Role, SendFlags, StreamId, StreamKind};

const PATIENCE: Duration = Duration::from_secs(30);

fn status(id: u64) -> bytes::Bytes {
    codec::encode(&Request { id, deadline_ms: 0, namespace: "default".into(), body: RequestBody::Status }).unwrap()
}

/// The next answer or end of a stream.
async fn next(events: &mut EventReceiver) -> (Option<u64>, StreamId) {
    loop {
        match tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            Event::Message { stream, bytes, .. } => {
                let response: Response = codec::decode(&bytes).unwrap();
                assert!(matches!(response.body, ResponseBody::Status(_)));
                return (Some(response.id), stream);
            }
            Event::Finished { stream } => return (None, stream),
            Event::Closed { reason } => panic!("the connection was closed: {reason}"),
            _ => {}
        }
    }
}

#[test]
fn a_stream_that_ends_or_is_reset_costs_no_answer_of_itself_or_of_another() {
    let mut cluster = Cluster::without(2);
    until("the leader serves", || cluster.server(0).node().is_serving());
    let address = cluster.server(0).address();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let identity = Identity { cluster: [0; 16], node: 0, directory: [0; 16], incarnation: 0, role: Role::Client };
        let (sink, mut events) = EventSink::channel(64);
        let handle = driver::connect(address, ConnectionConfig::new(identity, [5; 16]), sink).await.unwrap();
        handle.ready().await.unwrap();
        let open = || handle.open(StreamKind::Request, Lane::Request).unwrap();
        let (ending, reset, staying) = (open(), open(), open());
        for (id, stream) in [(1, ending), (2, reset), (3, staying)] {
            handle.send(stream, status(id), SendFlags::default()).await.unwrap();
        }
        handle.finish(ending);
        handle.reset(reset, ResetCode::REFUSED);
        let (mut ended, mut answered) = (false, Vec::new());
        while !(ended && answered.contains(&1) && answered.contains(&3)) {
            match next(&mut events).await {
                (Some(id), _) => answered.push(id),
                (None, stream) => {
                    assert!(stream == ending && answered.contains(&1), "our half's answer comes before its end");
                    ended = true;
                }
            }
        }
        handle.send(staying, status(4), SendFlags::default()).await.unwrap();
        assert_eq!(next(&mut events).await, (Some(4), staying), "the connection goes on");
        handle.close();
    });
    (0..2).for_each(|index| cluster.stop(index));
}

/// A large write is prepared on another thread, and a small one where it came.
#[test]
fn a_small_write_does_not_overtake_the_large_one_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
                shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
    let server = serve(&Config::parse(&directory.path().join("node.toml"), text).unwrap()).unwrap();
    until("it takes writes", || server.node().is_serving());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Raw::connect(server.address()).await;
        let stream = client.open(StreamKind::Request);
        let put = |value: Vec<u8>| {
            let record = Write::new().put("k", value).record().encode().unwrap().to_vec();
            RequestBody::Call(Call::Write { record, reach: Reach::Applied })
        };
        for round in 0..50 {
            client.ask(stream, 2 * round, put(vec![7; 1 << 20])).await;
            client.ask(stream, 2 * round + 1, put(b"small".to_vec())).await;
            let answers = [client.response().await, client.response().await];
            let positions = answers.map(|(id, body)| match body {
                ResponseBody::Answer(Answer::Written { lsn, .. }) => (id, lsn),
                other => panic!("{other:?}"),
            });
            let [(first, before), (second, behind)] = positions;
            assert!(before < behind && (first, second) == (2 * round, 2 * round + 1), "{positions:?}");
        }
    });
    server.shutdown().unwrap();
}
