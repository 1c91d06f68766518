use super::super::client_test::{leads, options, run, server};
use super::super::routing::Told;
use super::*;
use crate::model::call::ShardPlace;
use std::future::Future;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// So long that whoever waits for it does not end with the test.
fn patient() -> ClientOptions {
    ClientOptions { connect_timeout: Duration::from_secs(3600), ..options() }
}

async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Until the other end is closed.
async fn is_let_go(mut connection: TcpStream) {
    let mut hello = Vec::new();
    connection.read_to_end(&mut hello).await.unwrap();
}

/// Closes while `attempt` is under way: it ends, and its connection with it.
async fn closes_in_the_middle<F>(attempt: impl FnOnce(Arc<Servers>) -> F)
where
    F: Future<Output = Result<(), ClientError>> + Send + 'static,
{
    let (listener, address) = silent().await;
    let servers = Arc::new(Servers::new(vec![address], &patient()));
    let attempt = tokio::spawn(attempt(Arc::clone(&servers)));
    let (connection, _) = listener.accept().await.unwrap();
    servers.close().await;
    assert_eq!(attempt.await.unwrap(), Err(ClientError::Closed));
    is_let_go(connection).await;
}

/// The story of a bug: to close a client took as long as a server that says nothing was waited for.
#[test]
fn to_close_ends_an_attempt_to_connect_and_does_not_wait_for_it() {
    run(async {
        closes_in_the_middle(async |servers| servers.link(&patient(), &Path::HOME).await.map(drop)).await;
        closes_in_the_middle(async |servers| servers.own_link(&patient()).await.map(drop)).await;
    });
}

/// Otherwise the connection of whoever asked a moment too late would stay, and nobody would end it.
#[test]
fn nobody_is_dialled_when_it_is_closed() {
    run(async {
        let (listener, address) = silent().await;
        let servers = Servers::new(vec![address], &patient());
        servers.close().await;
        assert_eq!(servers.link(&patient(), &Path::HOME).await.map(drop), Err(ClientError::Closed));
        assert_eq!(servers.own_link(&patient()).await.map(drop), Err(ClientError::Closed));
        timeout(Duration::from_millis(50), listener.accept()).await.expect_err("nobody comes");
    });
}

#[test]
fn whoever_waits_for_the_attempt_of_another_ends_with_it_when_it_is_closed() {
    run(async {
        let (listener, address) = silent().await;
        let servers = Arc::new(Servers::new(vec![address], &patient()));
        let attempts: Vec<_> = (0..3)
            .map(|_| {
                let servers = Arc::clone(&servers);
                tokio::spawn(async move { servers.link(&patient(), &Path::HOME).await.map(drop) })
            })
            .collect();
        let (connection, _) = listener.accept().await.unwrap();
        servers.close().await;
        for attempt in attempts {
            assert_eq!(attempt.await.unwrap(), Err(ClientError::Closed));
        }
        is_let_go(connection).await;
    });
}

/// The story of a bug: to ask who leads took as long as a server may be looked for, and then the request looked for it as long again.
#[test]
fn who_leads_is_asked_for_half_of_the_time_that_a_request_has() {
    run(async {
        // Its connections are taken by the kernel, and nobody says anything on them.
        let (_listener, address) = silent().await;
        let servers = Servers::new(vec![address], &patient());
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(1);
        let path = servers.path(&patient(), "orders", &About::Key(b"k".to_vec()), deadline).await;
        assert!(path.part.is_some_and(|part| part.leader.is_none()));
        let took = begun.elapsed();
        assert!((Duration::from_millis(400)..Duration::from_millis(900)).contains(&took), "{took:?}");
    });
}

/// The story of a bug: to look after a read that is not answered put a whole namespace in doubt, and its writes waited for that.
#[test]
fn what_is_looked_after_holds_up_nothing_else() {
    run(async {
        let (_listener, address) = silent().await;
        let servers = Servers::new(vec![address], &patient());
        let ways = servers.routing.of("orders");
        ways.learn(Instant::now(), Vec::new());
        let far = Instant::now() + Duration::from_secs(3600);
        let about = About::Key(b"k".to_vec());
        tokio::time::sleep(2 * super::super::routing::ASK_PAUSE).await;
        assert!(ways.is_to_be_asked(&about), "nobody answered");
        let place = ShardPlace {
            shard: ShardId::new(2048),
            start: Vec::new(),
            leader: Some(NodeId::new(1)),
            serving: true,
            applied: 0,
            failure: None,
        };
        ways.learn(Instant::now(), vec![Told { node: NodeId::new(1), places: vec![place] }]);
        tokio::time::sleep(2 * super::super::routing::ASK_PAUSE).await;
        let options = patient();
        let path = servers.path(&options, "orders", &about, far).await;
        let looking = servers.is_led_elsewhere(&options, "orders", &about, &path, far);
        let writing = async {
            // It asks by now.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            for _ in 0..100 {
                servers.path(&options, "orders", &about, far).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = looking => panic!("nobody answers it, and it ends"),
            () = writing => {}
        }
    });
}

#[test]
fn a_node_at_whose_place_another_one_answers_is_not_dialled_for_each_request() {
    run(async {
        let servers = Servers::new(vec![server(1, leads(1)).await], &options());
        let ways = servers.routing.of("orders");
        let place = ShardPlace {
            shard: ShardId::new(2048),
            start: Vec::new(),
            leader: Some(NodeId::new(2)),
            serving: false,
            applied: 0,
            failure: None,
        };
        ways.learn(Instant::now(), vec![Told { node: NodeId::new(1), places: vec![place] }]);
        let path = Path { hash: 0, is_any: false, part: Some(ways.part(&About::Key(b"k".to_vec()))) };
        let begun = Instant::now();
        for _ in 0..4 {
            // As if it had refused.
            servers.link(&options(), &path).await.unwrap().leads_no_more(NodeId::new(2));
        }
        assert!(begun.elapsed() >= 3 * PASSED_PAUSE, "{:?}", begun.elapsed());
    });
}

/// The story of a bug: each node that any server ever named as a leader was kept, with connections of its own.
#[test]
fn connections_are_kept_for_nodes_that_are_known_to_lead_something() {
    run(async {
        let server = server(1, leads(1)).await;
        let servers = Servers::new(vec![server], &options());
        let ways = servers.routing.of("orders");
        for leader in 2..50 {
            let place = ShardPlace {
                shard: ShardId::new(2048),
                start: Vec::new(),
                leader: Some(NodeId::new(leader)),
                serving: false,
                applied: 0,
                failure: None,
            };
            ways.learn(Instant::now(), vec![Told { node: NodeId::new(1), places: vec![place] }]);
            let path = Path { hash: 0, is_any: false, part: Some(ways.part(&About::Key(b"k".to_vec()))) };
            servers.link(&options(), &path).await.unwrap();
            assert!(servers.of_nodes.lock().contains_key(&NodeId::new(leader)));
        }
        assert_eq!(servers.of_nodes.lock().len(), 1);
    });
}

#[test]
fn the_connections_in_use_end_when_it_is_closed() {
    run(async {
        let servers = Servers::new(vec![server(1, leads(1)).await], &options());
        let link = servers.link(&options(), &Path::HOME).await.unwrap();
        assert!(link.is_usable());
        servers.close().await;
        assert!(!link.is_usable() && servers.node().await.is_none());
        assert_eq!(servers.link(&options(), &Path::HOME).await.map(drop), Err(ClientError::Closed));
    });
}
