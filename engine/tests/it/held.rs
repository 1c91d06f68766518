//! What a server holds for its clients, moments and followers, when connections are lost and servers come back.

use std::path::Path;
use std::time::Duration;
use towline::client::{Client, ClientError, ClientOptions};
use towline::model::{Filter, FollowerOptions, Read, Since};
use towline::node::{Config, ServerHandle, serve};

fn server(directory: &Path, listen: &str) -> ServerHandle {
    let text = format!(
        "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '{listen}'\n\
         shard = {{ leader = 1 }}\nnode = [{{ id = 1, address = '127.0.0.1:7400' }}]"
    );
    serve(&Config::parse(&directory.join("node.toml"), &text).unwrap()).unwrap()
}

/// The first part with a server, the second with the one that comes back at its address.
fn through_a_restart<T, A: Future<Output = T>, B: Future<Output = ()>>(
    before: impl FnOnce(Client) -> A,
    after: impl FnOnce(T) -> B,
) {
    let directory = tempfile::tempdir().unwrap();
    let first = server(directory.path(), "127.0.0.1:0");
    let address = first.address().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let kept = runtime.block_on(async {
        let client = Client::connect([address.clone()], ClientOptions::default()).await.unwrap();
        before(client).await
    });
    first.shutdown().unwrap();
    let second = server(directory.path(), &address);
    runtime.block_on(after(kept));
    drop(runtime);
    second.shutdown().unwrap();
}

#[test]
fn a_follower_goes_on_where_it_was_and_acknowledges_from_its_new_seat() {
    let put = async |client: &Client, key: &'static str| {
        client.namespace("default").put(key, "1").await.unwrap().await.unwrap();
    };
    through_a_restart(
        async |client| {
            for key in ["a", "b", "c", "d"] {
                put(&client, key).await;
            }
            let options = FollowerOptions::since(Since::Beginning);
            let mut follower = client.namespace("default").follow("f", &options).await.unwrap();
            assert_eq!(follower.next().await.unwrap().operations[0].key(), "a");
            follower.acknowledge().await.unwrap();
            assert_eq!(follower.next().await.unwrap().operations[0].key(), "b");
            (client, follower)
        },
        async |(client, mut follower)| {
            put(&client, "e").await;
            // Not "b" again, though it is not done with that.
            for key in ["c", "d", "e"] {
                assert_eq!(follower.next().await.unwrap().operations[0].key(), key);
            }
            let space = client.namespace("default");
            let known = space.followers().await.unwrap().remove(0);
            assert_eq!((known.is_here, known.done.distance_to(known.applied)), (true, Some(5)), "done with \"a\"");
            follower.acknowledge().await.unwrap();
            let known = space.followers().await.unwrap().remove(0);
            assert_eq!(known.done, known.applied);
        },
    );
}

/// It looked for what came next on a connection that was gone.
#[test]
fn a_follower_acknowledges_also_when_its_first_call_after_a_restart_is_that() {
    through_a_restart(
        async |client| {
            let space = client.namespace("default");
            space.put("a", "1").await.unwrap().await.unwrap();
            space.put("b", "1").await.unwrap().await.unwrap();
            let mut follower = space.follow("f", &FollowerOptions::since(Since::Beginning)).await.unwrap();
            assert_eq!(follower.next().await.unwrap().operations[0].key(), "a");
            (client, follower)
        },
        async |(client, mut follower)| {
            follower.acknowledge().await.unwrap();
            let space = client.namespace("default");
            assert!(space.followers().await.unwrap()[0].done.get() > 0);
            assert_eq!(follower.next().await.unwrap().operations[0].key(), "b");
            space.put("c", "1").await.unwrap().await.unwrap();
            assert_eq!(follower.next().await.unwrap().operations[0].key(), "c");
        },
    );
}

#[test]
fn a_moment_is_gone_with_its_connection_and_never_taken_for_another() {
    through_a_restart(
        async |client| {
            let space = client.namespace("default");
            space.put("k", "before").await.unwrap().await.unwrap();
            let (snapshot, feed) = space.snapshot_and_feed(Read::Linearizable, Filter::All).await.unwrap();
            assert_eq!(snapshot.get("k").await.unwrap().unwrap().value, "before");
            (client, snapshot, feed)
        },
        async |(client, snapshot, mut feed)| {
            let space = client.namespace("default");
            space.put("k", "after").await.unwrap().await.unwrap();
            // By the same number as the first on its connection.
            let another = space.snapshot(Read::Linearizable).await.unwrap();
            let gone = snapshot.get("k").await.unwrap_err();
            assert_eq!(gone, ClientError::ConnectionLost);
            assert_eq!(another.get("k").await.unwrap().unwrap().value, "after");
            drop(snapshot);
            assert_eq!(another.get("k").await.unwrap().unwrap().value, "after", "it is not what was let go");
            assert_eq!(feed.next().await.unwrap().operations[0].key(), "k");
        },
    );
}

/// Otherwise one client that goes away without a word would keep the places of others, and old versions, for a minute.
#[test]
fn the_places_of_a_client_that_is_gone_are_given_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path(), "127.0.0.1:0");
    let address = server.address().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let second = Client::connect([address.clone()], ClientOptions::default()).await.unwrap();
        let (mut first, mut held) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let client = Client::connect([address.clone()], ClientOptions::default()).await.unwrap();
            for _ in 0..16 {
                held.push(client.namespace("default").snapshot(Read::Eventual).await.unwrap());
            }
            let refused = client.namespace("default").snapshot(Read::Eventual).await.unwrap_err();
            assert_eq!(refused.code(), "TW-8020", "one client does not take all of them");
            first.push(client);
        }
        let space = second.namespace("default");
        let patience = Duration::from_millis(100);
        assert!(tokio::time::timeout(patience, space.snapshot(Read::Eventual)).await.is_ok_and(|found| found.is_err()));
        for client in first {
            client.close().await.unwrap();
        }
        // What it holds tells nobody any more.
        std::mem::forget(held);
        let mut tries = 0;
        while space.snapshot(Read::Eventual).await.is_err() {
            tries += 1;
            assert!(tries < 1000, "its places do not come back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    drop(runtime);
    server.shutdown().unwrap();
}
