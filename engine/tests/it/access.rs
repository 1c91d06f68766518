//! What clients may do, over real connections.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use towline::client::{Client, ClientError, ClientOptions, ClientTls, CredentialFiles, WriteError};
use towline::model::request::FailureClass;
use towline::model::{Filter, NamespaceOptions, Policy, Read, Scan, Since, Write};
use towline::node::access::{Action, Caller, Decision, Verb};
use towline::node::{Config, ServerHandle, serve, serve_with};

const CLUSTER: &str = "0193aabb-ccdd-7eff-8000-010203040506";

fn text(more: &str) -> String {
    format!(
        "cluster = '{CLUSTER}'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\nshard = {{ leader = 1 }}\n\
         node = [{{ id = 1, address = '127.0.0.1:7400' }}]\n{more}"
    )
}

fn config(directory: &Path, more: &str) -> Config {
    Config::parse(&directory.join("node.toml"), &text(more)).unwrap()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

fn is_denied(error: &ClientError) -> bool {
    (error.code().as_str(), error.class()) == ("TW-8007", FailureClass::FixRequest)
}

fn cert(directory: &Path, args: &[&str]) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_towline"));
    let output = program.current_dir(directory).args(["cert"]).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A server over TLS, and clients by the names in their certificates.
struct World {
    directory: tempfile::TempDir,
    server: ServerHandle,
}

impl World {
    fn new(grants: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        cert(directory.path(), &["authority", "ca"]);
        let node = ["node", "ca", "--cluster", CLUSTER, "--id", "1", "--name", "127.0.0.1", "--name", "localhost"];
        cert(directory.path(), &node);
        let tls = "tls = { certificate = 'ca/node-1/certificate.pem', key = 'ca/node-1/key.pem', \
                   authorities = 'ca/node-1/authority.pem' }\n";
        let server = serve(&config(directory.path(), &format!("{tls}{grants}"))).unwrap();
        Self { directory, server }
    }

    async fn client(&self, name: &str) -> Client {
        cert(self.directory.path(), &["client", "ca", "--cluster", CLUSTER, "--name", name]);
        let files = CredentialFiles::in_directory(self.directory.path().join(format!("ca/client-{name}")));
        let options = ClientOptions { tls: Some(ClientTls::open(files).unwrap()), ..ClientOptions::default() };
        Client::connect([self.server.address().to_string()], options).await.unwrap()
    }
}

#[test]
fn clients_do_what_is_granted_to_the_names_in_their_certificates_and_nothing_else() {
    let world = World::new(&format!(
        "[[grant]]\nidentity = 'towline://{CLUSTER}/client/shop'\nnamespaces = ['shop', 'shop-*']\n\
         actions = ['read', 'write', 'manage']\n\
         [[grant]]\nidentity = 'towline://{CLUSTER}/client/operator'\nnamespaces = ['default']\nactions = ['assign']\n\
         [[grant]]\nidentity = 'towline://{CLUSTER}/client/audit'\nnamespaces = ['shop']\nactions = ['subscribe']\n\
         [[grant]]\nidentity = 'towline://{CLUSTER}/client/audit'\nactions = ['observe']\n"
    ));
    run(async {
        let (shop, audit, nobody) = (world.client("shop").await, world.client("audit").await, world.client("x").await);
        world.server.node().create_namespace("secret", &NamespaceOptions::default()).unwrap();
        let space = shop.create_namespace("shop", &NamespaceOptions::default()).await.unwrap();
        space.put("a", "1").await.unwrap().await.unwrap();
        assert_eq!(space.get("a", Read::Linearizable).await.unwrap().unwrap().value, "1");
        let session = space.open_session().await.unwrap();
        session.write(Write::new().put("a", "2")).await.unwrap();
        session.close().await.unwrap();
        shop.rename_namespace("shop", "shop-2").await.unwrap();
        shop.rename_namespace("shop-2", "shop").await.unwrap();
        let names = async |client: &Client| {
            client.namespaces().await.unwrap().into_iter().map(|found| found.name).collect::<Vec<_>>()
        };
        assert_eq!((names(&shop).await, names(&audit).await), (vec!["shop".to_owned()], vec!["shop".to_owned()]));
        assert!(names(&nobody).await.is_empty());

        // Whether there is such a namespace, the answer does not tell.
        for name in ["secret", "default", "nowhere", "a/b"] {
            let other = shop.namespace(name);
            let errors = [
                other.get("a", Read::Eventual).await.unwrap_err(),
                other.scan(&Scan::all(), Read::Linearizable).await.unwrap_err(),
                other.token().await.unwrap_err(),
                other.descriptor().await.unwrap_err(),
                other.open_session().await.map(drop).unwrap_err(),
                other.subscribe(Since::Now, Filter::All).await.map(drop).unwrap_err(),
                shop.create_namespace(name, &NamespaceOptions::default()).await.map(drop).unwrap_err(),
                shop.rename_namespace(name, "shop-3").await.unwrap_err(),
                shop.rename_namespace("shop", name).await.unwrap_err(),
                shop.set_policy(name, Policy::default()).await.unwrap_err(),
                shop.drop_namespace(name).await.unwrap_err(),
            ];
            for error in errors {
                assert!(is_denied(&error), "{name}: {error}");
                let said = error.to_string().replace(&format!("{name:?}"), "");
                assert!(said.starts_with("this client is not allowed to ") && said.len() < 70, "{said}");
            }
            let write = other.put("a", "1").await.unwrap().await.unwrap_err();
            assert!(matches!(&write, WriteError::Refused(failure) if failure.code == 8007), "{write}");
        }
        assert!(is_denied(&shop.digest().await.unwrap_err()), "it may not observe");
        assert_eq!(shop.status().await.unwrap().end, 0);
        assert!(is_denied(&space.subscribe(Since::Now, Filter::All).await.unwrap_err()));

        let seen = audit.namespace("shop");
        let mut feed = seen.subscribe(Since::Beginning, Filter::All).await.unwrap();
        assert_eq!(feed.next().await.unwrap().operations[0].key(), "a");
        assert!(seen.descriptor().await.is_ok() && audit.digest().await.is_ok());
        assert!(audit.status().await.unwrap().end > 0);
        // To say who leads is a thing of its own.
        let operator = world.client("operator").await;
        let leader = towline::model::NodeId::new(1);
        let assigning = async |client: &Client, name: &str| {
            client.namespace(name).assign_leader(None, leader, Duration::from_secs(60)).await
        };
        assert_eq!(assigning(&operator, "default").await.unwrap().leader, leader);
        for (client, name) in [(&shop, "shop"), (&shop, "default"), (&audit, "shop"), (&operator, "shop")] {
            assert!(is_denied(&assigning(client, name).await.unwrap_err()), "{name}");
        }
        assert_eq!(world.server.stats().assignments, 1);
        assert!(is_denied(&operator.namespace("default").get("a", Read::Eventual).await.unwrap_err()));
        for error in [
            seen.get("a", Read::Eventual).await.map(drop).unwrap_err(),
            seen.open_session().await.map(drop).unwrap_err(),
            audit.drop_namespace("shop").await.unwrap_err(),
        ] {
            assert!(is_denied(&error), "{error}");
        }
        let written = seen.put("a", "3").await.unwrap().await.unwrap_err();
        assert!(written.has_no_effect());
        assert_eq!(space.get("a", Read::Linearizable).await.unwrap().unwrap().value, "2");
        assert!(world.server.stats().denied >= 50, "{:?}", world.server.stats());
    });
    world.server.shutdown().unwrap();
}

#[test]
fn a_client_over_plain_tcp_may_do_what_everybody_may() {
    let directory = tempfile::tempdir().unwrap();
    let grants = "grant = [{ identity = '*', namespaces = ['default'], actions = ['read'] }]";
    let server = serve(&config(directory.path(), grants)).unwrap();
    server.node().default_namespace().put("a", "1").unwrap().wait().unwrap();
    run(async {
        let options = ClientOptions { connect_timeout: Duration::from_secs(60), ..ClientOptions::default() };
        let client = Client::connect([server.address().to_string()], options).await.unwrap();
        // The plain requests, and the calls.
        assert_eq!(client.get(b"a").await.unwrap().unwrap().value, "1");
        assert!(client.namespace("default").get("a", Read::Linearizable).await.unwrap().is_some());
        let written = client.write(Write::new().put("a", "2").record()).await.unwrap().await.unwrap_err();
        assert!(matches!(&written, WriteError::Refused(failure) if failure.code == 8007), "{written}");
        assert!(is_denied(&client.namespace("default").open_session().await.unwrap_err()));
        assert_eq!(client.get(b"a").await.unwrap().unwrap().value, "1");
        assert_eq!(server.stats().denied, 2);
        // Whoever may not know what there is hears who leads, of whatever it asks that; and who may, what there is not.
        let connect = async |namespace: &str| {
            let options = ClientOptions { namespace: namespace.to_owned(), ..ClientOptions::default() };
            Client::connect([server.address().to_string()], options).await.map(drop)
        };
        server.node().create_namespace("secret", &NamespaceOptions::default()).unwrap();
        for name in ["default", "secret", "nowhere"] {
            connect(name).await.unwrap();
        }
    });
    server.shutdown().unwrap();
}

#[test]
fn a_programs_own_rule_decides_instead_of_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let grants = "grant = [{ identity = '*', namespaces = ['*'], actions = ['write'] }]";
    let server = serve_with(&config(directory.path(), grants), |caller: &Caller, action: &Action<'_>| {
        let is_known = caller.identity.is_none() && caller.address.ip().is_loopback();
        if is_known && action.verb == Verb::Read { Decision::Allow } else { Decision::Deny }
    })
    .unwrap();
    run(async {
        let client = Client::connect([server.address().to_string()], ClientOptions::default()).await.unwrap();
        assert!(client.get(b"a").await.unwrap().is_none());
        assert!(client.write(Write::new().put("a", "1").record()).await.unwrap().await.is_err());
    });
    server.shutdown().unwrap();
}
