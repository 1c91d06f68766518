#![cfg(feature = "client")]

use super::*;
use crate::client::{Client, ClientError, ClientOptions};
use crate::model::{Filter, Read, Since};

fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Client, Server) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
                shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
    let handle = serve(&Config::parse(&directory.path().join("node.toml"), text).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect([handle.address().to_string()], ClientOptions::default()).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), test(client, handle.server.clone())).await;
        ended.expect("the test ends");
    });
    drop(runtime);
    handle.shutdown().unwrap();
}

async fn times_out<T: std::fmt::Debug>(asked: impl Future<Output = Result<T, ClientError>>) {
    tokio::time::timeout(Duration::from_millis(200), asked).await.expect_err("there is no place for it");
}

/// Opening waits for the log, and would wait for reads that wait for the disk.
#[test]
fn sessions_begin_and_the_status_is_told_while_all_places_for_reads_are_taken() {
    with_server(|client, server| async move {
        let space = client.namespace("default");
        let all = Arc::clone(&server.reading).acquire_many_owned(u32::try_from(READS_MAX).unwrap()).await.unwrap();
        times_out(space.get("k", Read::Eventual)).await;
        let opened = client.clone().namespace("default");
        let opening = tokio::spawn(async move { opened.open_session().await.map(drop) });
        let before = server.node.stats().unwrap().shards[0].records;
        // It takes effect; what it asks behind that is a read, and waits.
        while server.node.stats().unwrap().shards[0].records == before {
            tokio::task::yield_now().await;
        }
        client.status().await.unwrap();
        drop(all);
        opening.await.unwrap().unwrap();
        space.get("k", Read::Eventual).await.unwrap();
    });
}

#[test]
fn feeds_wait_for_their_turn_to_look_at_the_log_and_hold_up_nothing_else() {
    with_server(|client, server| async move {
        let space = client.namespace("default");
        let all = Arc::clone(&server.scanning).acquire_many_owned(u32::try_from(SCANNING_MAX).unwrap()).await.unwrap();
        times_out(space.subscribe(Since::Now, Filter::All)).await;
        space.put("k", "1").await.unwrap().await.unwrap();
        assert!(space.get("k", Read::Linearizable).await.unwrap().is_some());
        client.status().await.unwrap();
        drop(all);
        let mut feed = space.subscribe(Since::Beginning, Filter::All).await.unwrap();
        feed.next().await.unwrap();
        // Between two looks nobody has a turn.
        space.put("k", "2").await.unwrap().await.unwrap();
        feed.next().await.unwrap();
        while server.scanning.available_permits() < SCANNING_MAX {
            tokio::task::yield_now().await;
        }
    });
}
