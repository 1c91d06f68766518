//! Feeds that look through a long log for what is not there leave the server's threads to others.

use crate::noise::noise;
use crate::raw::{Came, Raw};
use std::fs;
use towline::client::{Client, ClientOptions};
use towline::model::codec;
use towline::model::subscription::{Delivery, Subscribe};
use towline::model::{Filter, Read, Since, Write};
use towline::node::{Config, serve};
use towline::pipeline::SubmitPolicy;
use towline_net::StreamKind;

const FEEDS: usize = 200;
/// Two that move bytes, sixteen that look at the log, sixteen that read; and one that comes as another goes.
const THREADS_MAX: usize = 40;

fn threads_of_the_server() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.unwrap().path().join("comm"));
    tasks.filter_map(|task| name(task).ok()).filter(|name| name.trim_end() == "towline-net").count()
}

/// Each that looks holds a thread, and the server has 512: a thousand took them all, and no read had one.
#[test]
fn hundreds_of_feeds_that_look_through_the_log_leave_threads_for_reads() {
    let directory = tempfile::tempdir().unwrap();
    let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
                shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
    let server = serve(&Config::parse(&directory.path().join("node.toml"), text).unwrap()).unwrap();
    let space = server.node().default_namespace();
    let write = |number| Write::new().put("k", noise(number, 64 << 10));
    let receipts: Vec<_> =
        (0..400).map(|number| space.write_when(write(number), SubmitPolicy::Wait).unwrap()).collect();
    for receipt in receipts {
        receipt.wait().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let most = runtime.block_on(async {
        let client = Client::connect([server.address().to_string()], ClientOptions::default()).await.unwrap();
        let mut raw = Raw::connect(server.address()).await;
        let subscribe = Subscribe::new("default", &Since::Beginning, &Filter::Key("none".into())).unwrap();
        let bytes = codec::encode(&subscribe).unwrap();
        for _ in 0..FEEDS {
            let stream = raw.open(StreamKind::Feed);
            raw.send(stream, bytes.clone()).await;
        }
        let mut most = 0;
        // Each says where it begins, and then, when it has looked through all, where it is.
        for number in 0..2 * FEEDS {
            if number % 8 == 0 {
                client.status().await.unwrap();
                assert!(client.namespace("default").get("k", Read::Linearizable).await.unwrap().is_some());
            }
            match raw.next().await {
                (_, Came::Message(bytes)) => {
                    let delivery = codec::decode::<Delivery>(&bytes).unwrap();
                    assert!(matches!(delivery, Delivery::Changes { changes, .. } if changes.is_empty()));
                }
                (_, came) => panic!("{came:?}"),
            }
            most = most.max(threads_of_the_server());
        }
        most
    });
    drop((space, runtime));
    server.shutdown().unwrap();
    assert!(most <= THREADS_MAX, "{most} threads");
}
