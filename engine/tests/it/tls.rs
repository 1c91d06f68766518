//! Nodes and clients over TLS (N13): the program's own certificates, three processes, and what each of them says.

use serde_json::Value;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use towline::client::{Client, ClientError, ClientOptions, ClientTls, CredentialFiles, Route};
use towline::model::Write;

use crate::cluster::until;

const CLUSTER: &str = "0193aabb-ccdd-7eff-8000-010203040506";
const OTHER: &str = "0193aabb-ccdd-7eff-8000-0102030405ff";

fn towline(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_towline")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs the program, which must succeed, and reads the object that it prints.
fn object(args: &[&str]) -> Value {
    let output = towline(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An authority, and three nodes with the certificates that it issued.
struct World {
    directory: tempfile::TempDir,
    ports: Vec<u16>,
    nodes: Vec<Option<Child>>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(held);
        let world = Self { directory, ports, nodes: (0..3).map(|_| None).collect() };
        object(&["cert", "authority", &world.path("ca"), "--json"]);
        for id in ["1", "2", "3"] {
            let names = ["--name", "localhost", "--name", "127.0.0.1"];
            let issue = ["cert", "node", &world.path("ca"), "--cluster", CLUSTER, "--id", id, "--json"];
            object(&[&issue[..], &names[..]].concat());
        }
        world.client("loader");
        for index in 0..3 {
            fs::write(world.path(&format!("revoked-{}.txt", index + 1)), "# nobody\n").unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// A client's certificate, and the directory that it lies in.
    fn client(&self, name: &str) -> PathBuf {
        let issued = object(&["cert", "client", &self.path("ca"), "--cluster", CLUSTER, "--name", name, "--json"]);
        Path::new(issued["certificate"].as_str().unwrap()).parent().unwrap().to_owned()
    }

    fn config(&self, index: usize) -> String {
        let id = index + 1;
        let mut text = format!(
            "cluster = \"{CLUSTER}\"\nnode_id = {id}\ndata_dir = \"data-{id}\"\nlisten = \"127.0.0.1:{}\"\n\
             [shard]\nleader = 1\n[tls]\ncertificate = \"ca/node-{id}/certificate.pem\"\nkey = \"ca/node-{id}/key.pem\"\n\
             authorities = \"ca/node-{id}/authority.pem\"\nrevoked = \"revoked-{id}.txt\"\nreload_seconds = 1\n",
            self.ports[index]
        );
        for (peer, port) in self.ports.iter().enumerate() {
            text.push_str(&format!("[[node]]\nid = {}\naddress = \"localhost:{port}\"\n", peer + 1));
        }
        text
    }

    fn start(&mut self, index: usize) {
        let config = self.path(&format!("node-{}.toml", index + 1));
        fs::write(&config, self.config(index)).unwrap();
        let log = File::options().create(true).append(true).open(self.log_path(index)).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_towline"));
        program.args(["serve", "--config", &config]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.nodes[index] = Some(program.spawn().unwrap());
    }

    fn log_path(&self, index: usize) -> String {
        self.path(&format!("node-{}.log", index + 1))
    }

    fn log(&self, index: usize) -> String {
        fs::read_to_string(self.log_path(index)).unwrap()
    }

    fn says(&self, index: usize, what: &str) -> bool {
        self.log(index).contains(what)
    }

    fn address(&self, index: usize) -> String {
        format!("localhost:{}", self.ports[index])
    }

    async fn connect(&self, credentials: &Path, route: Route) -> Result<Client, ClientError> {
        let tls = Some(ClientTls::open(CredentialFiles::in_directory(credentials)).unwrap());
        let options =
            ClientOptions { tls, route, connect_timeout: Duration::from_secs(60), ..ClientOptions::default() };
        Client::connect((0..3).map(|index| self.address(index)), options).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            // It may have ended by itself.
            drop(node.kill());
            drop(node.wait());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "what is tested is how soon a refusal comes")]
async fn three_nodes_replicate_over_tls_and_whoever_has_no_certificate_of_theirs_is_told_so_at_once() {
    let mut world = World::new();
    (0..3).for_each(|index| world.start(index));
    let loader = world.path("ca/client-loader");
    let client = world.connect(Path::new(&loader), Route::Leader).await.unwrap();
    for number in 0..50 {
        let write = Write::new().put(format!("key-{number}"), "a value");
        client.write(write.record()).await.unwrap().await.unwrap();
    }
    // Each node has it, and the program reads it there, by its directory and by its files.
    for index in 0..3 {
        let address = world.address(index);
        until("the write is everywhere", || {
            let by_directory = ["get", "key-49", "--addr", &address, "--tls-dir", &loader];
            towline(&by_directory).stdout == b"a value\n"
        });
    }
    // And a program that has its credentials in memory.
    let (credentials, _) = CredentialFiles::in_directory(&loader).read().unwrap();
    let in_memory = ClientOptions { tls: Some(ClientTls::new(&credentials).unwrap()), ..ClientOptions::default() };
    let reader = Client::connect([world.address(0)], in_memory).await.unwrap();
    assert_eq!(reader.get(b"key-49").await.unwrap().unwrap().value, "a value");

    let (certificate, key) = (format!("{loader}/certificate.pem"), format!("{loader}/key.pem"));
    let authority = world.path("ca/authority.pem");
    let by_files = ["--tls-certificate", &certificate, "--tls-key", &key, "--tls-authority", &authority];
    let status = towline(&[&["status", "--json", "--addr", &world.address(0)][..], &by_files[..]].concat());
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&status.stdout).unwrap()["node"], 1);

    // A certificate of another cluster, of another authority, of a node, and none.
    let other = ["cert", "client", &world.path("ca"), "--cluster", OTHER, "--name", "stray", "--json"];
    object(&other);
    object(&["cert", "authority", &world.path("foreign"), "--json"]);
    object(&["cert", "client", &world.path("foreign"), "--cluster", CLUSTER, "--name", "foreign", "--json"]);
    fs::copy(&authority, world.path("foreign/client-foreign/authority.pem")).unwrap();
    for (directory, reason) in [
        ("ca/client-stray", "is of another cluster"),
        ("foreign/client-foreign", "does not accept this side's certificate"),
    ] {
        let begun = Instant::now();
        let address = world.address(0);
        let refused = towline(&["get", "key-1", "--addr", &address, "--tls-dir", &world.path(directory)]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("a certificate is not accepted") && said.contains(reason), "{said}");
        assert_eq!(refused.status.code(), Some(1));
        assert!(begun.elapsed() < Duration::from_secs(5), "not after all of --timeout");
    }
    until("the log says why", || world.says(0, "a connection was refused: TW-3217") && world.says(0, "UnknownIssuer"));
    let plain = towline(&["get", "key-1", "--addr", &world.address(0), "--timeout", "1"]);
    assert_eq!(plain.status.code(), Some(1));
    until("and of plain text", || world.says(0, "what came is no TLS"));
    let as_node = world.path("ca/node-3");
    let posing = towline(&["get", "key-1", "--addr", &world.address(0), "--timeout", "1", "--tls-dir", &as_node]);
    assert_eq!(posing.status.code(), Some(1), "{}", String::from_utf8_lossy(&posing.stderr));
    until("and of a node that says it is a client", || world.says(0, "TW-3026"));
    for index in 0..3 {
        let log = world.log(index);
        assert!(!log.contains("PRIVATE KEY") && !log.contains("panicked"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_change_while_a_node_runs_and_who_is_revoked_loses_its_connection() {
    let mut world = World::new();
    (0..3).for_each(|index| world.start(index));
    let (stays, leaves) = (world.path("ca/client-loader"), world.client("leaving"));
    let (stays, leaving) = (
        world.connect(Path::new(&stays), Route::Leader).await.unwrap(),
        world.connect(&leaves, Route::Leader).await.unwrap(),
    );
    leaving.write(Write::new().put("a", "1").record()).await.unwrap().await.unwrap();

    // Half a certificate: an editor at work. The node says so, and goes on with what it had.
    let certificate = world.path("ca/node-1/certificate.pem");
    let good = fs::read_to_string(&certificate).unwrap();
    fs::write(&certificate, &good[..good.len() / 2]).unwrap();
    until("the broken file is told", || {
        world.says(0, "the new TLS credentials are refused, the old ones stay: TW-3213")
    });
    stays.write(Write::new().put("b", "1").record()).await.unwrap().await.unwrap();
    world.connect(&leaves, Route::Leader).await.unwrap();
    // And a new one, made as the book says.
    let renewed = world.path("renewed");
    let issue = ["cert", "node", &world.path("ca"), "--cluster", CLUSTER, "--id", "1", "--name", "localhost"];
    object(&[&issue[..], &["--out", &renewed, "--json"]].concat());
    for file in ["key.pem", "certificate.pem"] {
        fs::rename(format!("{renewed}/{file}"), world.path(&format!("ca/node-1/{file}"))).unwrap();
    }
    until("the new one is in force", || world.says(0, "the new ones are in force"));
    stays.write(Write::new().put("c", "1").record()).await.unwrap().await.unwrap();

    for index in 0..3 {
        let list = format!("towline://{CLUSTER}/client/leaving # lost its laptop\n");
        fs::write(world.path(&format!("revoked-{}.txt", index + 1)), list).unwrap();
    }
    until("the connection is cut", || {
        world.says(0, "a connection was cut") && world.says(0, "/client/leaving is revoked")
    });
    let error = leaving.get(b"a").await.unwrap_err();
    assert_eq!(error.code(), "TW-7008", "{error}");
    stays.write(Write::new().put("d", "1").record()).await.unwrap().await.unwrap();
    assert!(stays.get(b"d").await.unwrap().is_some());
    assert_eq!(stays.stats().reconnects, 0, "nobody else was cut");
}

#[test]
fn a_node_with_the_certificate_of_another_or_with_an_open_key_does_not_start() {
    let world = World::new();
    let config = world.path("node.toml");
    let serve = |text: &str| {
        fs::write(&config, text).unwrap();
        let output = towline(&["serve", "--config", &config]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let good = world.config(0);
    let (code, said) = serve(&good.replace("ca/node-1/", "ca/node-2/"));
    assert_eq!(code, Some(1));
    assert!(said.contains("/node/2, and this is towline://"), "{said}");
    let (code, said) =
        serve(&good.replace("listen = \"127.0.0.1", "listen = \"0.0.0.0").split("[tls]").next().unwrap().replace(
            "[shard]\nleader = 1\n",
            "shard = { leader = 1 }\nnode = [{ id = 1, address = \"localhost:1\" }]\n",
        ));
    assert_eq!(code, Some(2));
    assert!(said.contains("node.toml:4:10: listen: 0.0.0.0:"), "{said}");
    let key = world.path("ca/node-1/key.pem");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let (code, said) = serve(&good);
    assert_eq!(code, Some(1));
    assert!(said.contains("others than its owner may read this key (its mode is 640"), "{said}");
    assert!(!Path::new(&world.path("data-1")).exists(), "nothing was made");
}

#[test]
fn certificates_are_never_written_over_keys_are_the_owners_alone_and_names_must_be_names() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    for key in ["ca/authority-key.pem", "ca/node-1/key.pem", "ca/client-loader/key.pem"] {
        let mode = fs::metadata(world.path(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    for directory in ["ca", "ca/node-1", "ca/client-loader"] {
        let mode = fs::metadata(world.path(directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{directory}");
    }
    let before = fs::read(world.path("ca/authority.pem")).unwrap();
    let ca = world.path("ca");
    let again = towline(&["cert", "authority", &ca]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    let again = towline(&["cert", "client", &ca, "--cluster", CLUSTER, "--name", "loader"]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(fs::read(world.path("ca/authority.pem")).unwrap(), before);
    let issue = ["cert", "node", &ca, "--cluster", CLUSTER, "--id", "9", "--name"];
    for wrong in ["localhost:7400", "a b", ""] {
        let refused = towline(&[&issue[..], &[wrong]].concat());
        assert_eq!(refused.status.code(), Some(2), "{wrong}");
    }
    let slash = towline(&["cert", "client", &ca, "--cluster", CLUSTER, "--name", "../loader"]);
    assert_eq!(slash.status.code(), Some(2));
    let shown = object(&["cert", "show", &world.path("ca/node-2/certificate.pem"), "--json"]);
    assert_eq!(shown["identity"], format!("towline://{CLUSTER}/node/2"));
    assert_eq!(shown["serial"].as_str().unwrap().len() % 2, 0);
}
