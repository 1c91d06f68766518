//! N12: clients of other releases than the server's.

use crate::cluster::until;
use crate::raw::{Came, Raw, envelope};
use towline::model::codec;
use towline::model::request::{FailureClass, Request, RequestBody, ResponseBody};
use towline::model::subscription::{Delivery, Subscribe};
use towline::model::{Filter, Since};
use towline::node::{Config, ServerHandle, serve};
use towline_net::StreamKind;

const BODY: usize = 12;

fn with_server<F: Future<Output = ()>>(test: impl FnOnce(std::sync::Arc<ServerHandle>) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
                shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
    let config = Config::parse(&directory.path().join("node.toml"), text).unwrap();
    let server = std::sync::Arc::new(serve(&config).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(std::sync::Arc::clone(&server)));
    drop(runtime);
    std::sync::Arc::into_inner(server).unwrap().shutdown().unwrap();
}

/// The body of a request for the status, without what is asked: its last four bytes.
fn head(id: u64) -> Vec<u8> {
    let request = Request { id, deadline_ms: 500, namespace: "default".into(), body: RequestBody::Status };
    let bytes = codec::encode(&request).unwrap();
    bytes[BODY..bytes.len() - 4].to_vec()
}

/// It ended the connection, and with it everything else that its client had under way.
#[test]
fn n12_a_request_of_a_newer_client_is_answered_by_name_and_its_connection_goes_on() {
    with_server(|server| async move {
        let mut client = Raw::connect(server.address()).await;
        let stream = client.open(StreamKind::Request);
        let asks: [&[u8]; 6] = [
            &99_u32.to_le_bytes(),                                 // an unknown body
            &[99_u32.to_le_bytes(), 7_u32.to_le_bytes()].concat(), // with fields
            &[5_u32.to_le_bytes(), 99_u32.to_le_bytes()].concat(), // an unknown call
            &[&4_u32.to_le_bytes()[..], b"more"].concat(),         // a known one with more fields
            &[&5_u32.to_le_bytes()[..], &0_u32.to_le_bytes(), &0_u64.to_le_bytes(), &9_u32.to_le_bytes()].concat(), // a reach
            &[], // and nothing
        ];
        for (id, ask) in asks.into_iter().enumerate() {
            let id = id as u64 + 1;
            client.send(stream, envelope(0x0301, &[&head(id)[..], ask].concat())).await;
            match client.response().await {
                (answered, ResponseBody::Failed(failure)) => {
                    assert_eq!((answered, failure.code, failure.class), (id, 8008, FailureClass::FixRequest));
                    assert!(failure.no_side_effects);
                }
                other => panic!("{other:?}"),
            }
        }
        client.ask(stream, 50, RequestBody::Status).await;
        assert!(matches!(client.response().await, (50, ResponseBody::Status(_))));
        tokio::task::block_in_place(|| until("nothing is left", || server.stats().requests == 0));
    });
}

#[test]
fn n12_a_message_that_is_no_request_refuses_its_stream_and_no_other() {
    with_server(|server| async move {
        let mut client = Raw::connect(server.address()).await;
        let (one, other) = (client.open(StreamKind::Request), client.open(StreamKind::Request));
        client.send(one, envelope(0x03ff, b"?")).await;
        match client.next().await {
            (stream, Came::Reset) => assert_eq!(stream, one),
            came => panic!("{came:?}"),
        }
        client.ask(other, 1, RequestBody::Status).await;
        assert!(matches!(client.response().await, (1, ResponseBody::Status(_))));
    });
}

#[test]
fn n12_a_subscription_of_a_newer_client_is_answered_by_name() {
    with_server(|server| async move {
        let mut client = Raw::connect(server.address()).await;
        let stream = client.open(StreamKind::Feed);
        let subscribe = codec::encode(&Subscribe::new("default", &Since::Now, &Filter::All).unwrap()).unwrap();
        let mut body = subscribe[BODY..].to_vec();
        let filter = body.len() - 4;
        body[filter] = 99;
        client.send(stream, envelope(0x0303, &body)).await;
        match client.next().await {
            (_, Came::Message(bytes)) => match codec::decode(&bytes).unwrap() {
                Delivery::Failed(failure) => assert_eq!(failure.code, 8008),
                other => panic!("{other:?}"),
            },
            came => panic!("{came:?}"),
        }
    });
}
