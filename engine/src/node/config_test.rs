use super::*;

const GOOD: &str = r#"cluster = "0193aabb-ccdd-7eff-8000-010203040506"
node_id = 2
data_dir = "data/two"
listen = "127.0.0.1:0"
insecure_plaintext = true
[shard]
leader = 1
namespace = "default"

[[node]]
id = 1
address = "127.0.0.1:7401"

[[node]]
id = 2
address = "node-2.example:7402"

[log]
segment_bytes = 134_217_728

[limits]
queue_bytes = 4_194_304
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("etc/node.toml"), text).map_err(|error| error.to_string())
}

/// The good file with one line changed, and what is said of it.
fn refused(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    parse(&GOOD.replacen(from, to, 1)).unwrap_err()
}

#[test]
fn a_good_file_is_read_with_all_its_fields() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.cluster.to_string(), "0193aabb-ccdd-7eff-8000-010203040506");
    assert_eq!((config.node.get(), config.leader.get()), (2, 1));
    assert_eq!(config.data_dir, Path::new("etc/data/two"), "relative to the file");
    assert_eq!(config.nodes.len(), 2);
    assert_eq!(config.log_options().segment_bytes, 128 << 20);
    assert_eq!(config.queue_bytes, 4 << 20);
}

#[test]
fn what_may_be_left_out_has_the_default_of_the_limits() {
    let (short, _) = GOOD.split_once("[log]").unwrap();
    let config = parse(&short.replace("namespace = \"default\"\n", "")).unwrap();
    assert_eq!(config.segment_bytes, SEGMENT_BYTES_DEFAULT);
    assert_eq!((config.queue_bytes, config.clients_bytes), (QUEUE_BYTES_DEFAULT, 512 << 20));
    assert_eq!(config.quorum_lost_after, Duration::from_secs(5));
    assert_eq!(config.namespace, "default");
}

#[test]
fn how_fast_and_how_often_the_log_is_scrubbed_is_said_and_may_be_never() {
    let config = parse(GOOD).unwrap();
    assert_eq!((config.scrub_bytes_per_second, config.scrub_pause), (4 << 20, Duration::from_secs(7 * 24 * 3600)));
    let with = |scrub: &str| parse(&GOOD.replacen("[log]\n", &format!("[log]\n{scrub}\n"), 1));
    let config = with("scrub_bytes_per_second = 0\nscrub_pause_seconds = 60").unwrap();
    assert_eq!((config.scrub_bytes_per_second, config.scrub_pause), (0, Duration::from_secs(60)));
    let said = with("scrub_pause_seconds = 0").unwrap_err();
    assert_eq!(said, "etc/node.toml:19:23: log.scrub_pause_seconds: expected 1 to 31622400 seconds, found 0");
}

#[test]
fn how_fast_others_are_given_snapshots_and_the_log_is_said_and_may_be_without_a_bound() {
    let config = parse(GOOD).unwrap();
    assert_eq!((config.snapshot_bytes_per_second, config.catch_up_bytes_per_second), (64 << 20, 32 << 20));
    let limits = "[limits]\nsnapshot_bytes_per_second = 7\ncatch_up_bytes_per_second = 0";
    let config = parse(&GOOD.replacen("[limits]", limits, 1)).unwrap();
    assert_eq!((config.snapshot_bytes_per_second, config.catch_up_bytes_per_second), (7, 0));
    let said = parse(&GOOD.replacen("[limits]", "[limits]\ncatch_up_bytes_per_second = -1", 1)).unwrap_err();
    assert!(said.starts_with("etc/node.toml:22:"), "{said}");
}

#[test]
fn a_cluster_that_is_no_uuid_is_refused_at_its_place() {
    let said = refused("0193aabb-ccdd-7eff-8000-010203040506", "towline");
    assert!(said.starts_with("etc/node.toml:1:11: cluster: expected a uuid, such as"), "{said}");
    assert!(said.ends_with("found \"towline\""), "{said}");
    let said = refused("0193aabb-ccdd-7eff-8000-010203040506", "00000000-0000-0000-0000-000000000000");
    assert!(said.contains("not all zero"), "{said}");
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let said = refused("listen =", "lissten =");
    assert!(said.starts_with("etc/node.toml:4:1: ") && said.contains("lissten"), "{said}");
}

#[test]
fn a_missing_field_is_named() {
    let said = refused("leader = 1\n", "");
    assert!(said.starts_with("etc/node.toml:6:") && said.contains("leader"), "{said}");
}

#[test]
fn a_value_of_the_wrong_type_is_refused_at_its_place() {
    let said = refused("node_id = 2", "node_id = \"two\"");
    assert!(said.starts_with("etc/node.toml:2:11: "), "{said}");
}

#[test]
fn text_that_is_not_toml_is_refused_at_its_line() {
    let said = refused("[shard]", "[shard");
    assert!(said.starts_with("etc/node.toml:6:"), "{said}");
    assert!(!said.contains('\n'), "one sentence: {said}");
}

#[test]
fn a_leader_who_is_no_node_is_refused() {
    let said = refused("leader = 1", "leader = 3");
    assert_eq!(said, "etc/node.toml:7:10: shard.leader: expected the id of one of the nodes (1, 2), found 3");
}

#[test]
fn a_node_that_is_not_on_its_own_list_is_refused() {
    let said = refused("node_id = 2", "node_id = 5");
    assert_eq!(said, "etc/node.toml:2:11: node_id: expected the id of one of the nodes (1, 2), found 5");
}

#[test]
fn ids_and_addresses_given_twice_are_refused() {
    let said = refused("id = 2\naddress", "id = 1\naddress");
    assert!(said.starts_with("etc/node.toml:15:6: node.id:") && said.ends_with("found 1 again"), "{said}");
    let said = refused("node-2.example:7402", "127.0.0.1:7401");
    assert!(said.starts_with("etc/node.toml:16:11: node.address:"), "{said}");
    let said = refused("id = 1\n", "id = 0\n");
    assert!(said.contains("a number from 1 on"), "{said}");
}

#[test]
fn an_address_without_a_port_is_refused() {
    for wrong in ["127.0.0.1", "127.0.0.1:", ":7401", "127.0.0.1:70000", "127.0.0.1:0", "::1:x", "fe80::1:7"] {
        let said = refused("127.0.0.1:7401", wrong);
        assert!(said.starts_with("etc/node.toml:12:11: node.address: expected HOST:PORT"), "{wrong}: {said}");
    }
    for right in ["[::1]:7401", "localhost:7401"] {
        parse(&GOOD.replacen("127.0.0.1:7401", right, 1)).unwrap();
    }
}

#[test]
fn a_file_without_nodes_is_refused() {
    let (start, rest) = GOOD.split_once("[[node]]").unwrap();
    let (_, end) = rest.split_once("[log]").unwrap();
    let said = parse(&format!("node = []\n{start}[log]{end}")).unwrap_err();
    assert!(said.contains("node: expected 1 to 7 nodes, found 0"), "{said}");
}

#[test]
fn sizes_out_of_bounds_are_refused_with_the_bounds() {
    let said = refused("134_217_728", "1");
    assert!(said.contains("log.segment_bytes: expected 50331648 to 1073741824 bytes, found 1"), "{said}");
    let said = refused("134_217_728", "134_217_729");
    assert!(said.contains("a multiple of 4096"), "{said}");
    let said = refused("4_194_304", "-1");
    assert!(said.starts_with("etc/node.toml:22:15: "), "{said}");
    let said = refused("queue_bytes = 4_194_304", "clients_bytes = 1_000_000");
    assert!(said.contains("limits.clients_bytes: expected 67108864 to 1099511627776 bytes, found 1000000"), "{said}");
    let said = refused("queue_bytes = 4_194_304", "quorum_seconds = 0");
    assert!(said.contains("limits.quorum_seconds: expected 1 to 3600 seconds, found 0"), "{said}");
}

#[test]
fn another_namespace_is_refused_by_name() {
    let said = refused("namespace = \"default\"", "namespace = \"other\"");
    assert!(said.contains("shard.namespace: expected \"default\""), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::read(Path::new("no/such/file.toml")).unwrap_err();
    assert!(error.to_string().starts_with("no/such/file.toml: "), "{error}");
    assert_eq!(error.code(), "TW-6001");
}

const TLS: &str = "\n[tls]\ncertificate = \"c.pem\"\nkey = \"/k.pem\"\nauthorities = \"a.pem\"\nreload_seconds = 2\n";

#[test]
fn an_address_that_others_reach_is_refused_without_tls_unless_plain_text_is_asked_for_by_its_name() {
    let secret = GOOD.replacen("insecure_plaintext = true", "", 1);
    parse(&secret).unwrap(); // The only address that is not loopback is its own, which it does not dial.
    let said = parse(&secret.replacen("127.0.0.1:7401", "node-1.example:7401", 1)).unwrap_err();
    assert!(said.starts_with("etc/node.toml:12:11: node.address: node-1.example:7401 is not loopback"), "{said}");
    let error = Config::parse(Path::new("n.toml"), &secret.replacen("127.0.0.1:0", "[::]:0", 1)).unwrap_err();
    assert_eq!((error.code(), error.class()), ("TW-6004", FailureClass::FixRequest));
    assert!(error.to_string().starts_with("n.toml:4:10: listen: [::]:0 is not loopback"), "{error}");
    for loopback in ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0", "localhost:0"] {
        let alone = secret.replacen("node-2.example", "localhost", 1).replacen("127.0.0.1:0", loopback, 1);
        parse(&alone).unwrap();
    }
}

#[cfg(feature = "tls")]
#[test]
fn with_tls_every_address_may_be_listened_on_and_its_files_lie_beside_the_configuration() {
    let text = GOOD.replacen("insecure_plaintext = true", "", 1).replacen("127.0.0.1:0", "0.0.0.0:0", 1) + TLS;
    let tls = parse(&text).unwrap().tls.unwrap();
    assert_eq!((tls.certificate.as_path(), tls.key.as_path()), (Path::new("etc/c.pem"), Path::new("/k.pem")));
    assert_eq!((tls.revoked, tls.reload), (None, Duration::from_secs(2)));
    let said = parse(&text.replacen("reload_seconds = 2", "reload_seconds = 61", 1)).unwrap_err();
    assert!(said.contains("tls.reload_seconds: expected 1 to 60 seconds, found 61"), "{said}");
    let said = parse(&text.replacen("key = \"/k.pem\"", "key = \"\"", 1)).unwrap_err();
    assert!(said.contains("tls.key: expected a file, found \"\""), "{said}");
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_program_without_tls_refuses_the_section() {
    let said = parse(&format!("{GOOD}{TLS}")).unwrap_err();
    assert!(said.contains("tls: expected a program built with the feature `tls`"), "{said}");
}

const GRANTS: &str = r#"
[[grant]]
identity = "towline://0193aabb-ccdd-7eff-8000-010203040506/client/shop"
namespaces = ["shop", "shop-*"]
actions = ["read", "write"]

[[grant]]
identity = "*"
actions = ["observe"]
"#;

#[cfg(feature = "tls")]
#[test]
fn grants_say_who_may_do_what_and_where() {
    use crate::node::access::{Action, Authorizer as _, Caller, Decision, Grants, Verb};
    let config = parse(&format!("{GOOD}{TLS}{GRANTS}")).unwrap();
    let grants = Grants::new(config.grants);
    let caller = |name: Option<&str>| {
        let identity = name.map(|name| format!("towline://0193aabb-ccdd-7eff-8000-010203040506/client/{name}"));
        Caller::new(identity, "127.0.0.1:1".parse().unwrap())
    };
    let may = |name, verb, namespace| grants.decide(&caller(name), &Action::new(verb, namespace)) == Decision::Allow;
    for namespace in ["shop", "shop-", "shop-2"] {
        assert!(may(Some("shop"), Verb::Read, Some(namespace)) && may(Some("shop"), Verb::Write, Some(namespace)));
        for verb in [Verb::Subscribe, Verb::Manage, Verb::Observe] {
            assert!(!may(Some("shop"), verb, Some(namespace)), "{verb} in {namespace}");
        }
        assert!(!may(Some("shop2"), Verb::Read, Some(namespace)) && !may(None, Verb::Read, Some(namespace)));
    }
    for namespace in ["sho", "shops", "Shop", "default", ""] {
        assert!(!may(Some("shop"), Verb::Read, Some(namespace)), "{namespace}");
    }
    for who in [Some("shop"), Some("other"), None] {
        assert!(may(who, Verb::Observe, None) && !may(who, Verb::Read, None), "{who:?}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_grant_that_does_not_hold_is_refused_at_its_place() {
    let good = format!("{GOOD}{TLS}{GRANTS}");
    let refused = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        let error = Config::parse(Path::new("n.toml"), &good.replacen(from, to, 1)).unwrap_err();
        assert_eq!((error.code(), error.class()), ("TW-6003", FailureClass::FixRequest), "{error}");
        error.to_string()
    };
    let said = refused("\"read\", \"write\"", "\"read\", \"delete\"");
    assert!(said.starts_with("n.toml:33:20: grant.actions: expected one or more of read, write, subscribe"), "{said}");
    assert!(said.ends_with("found \"delete\""), "{said}");
    assert!(refused("\"read\", \"write\"", "").contains("grant.actions: "));
    for wrong in [
        "",
        "shop",
        "towline://0193aabb-ccdd-7eff-8000-010203040506/client/",
        "towline://0193aabb-ccdd-7eff-8000-010203040506/client/a b",
        "towline://0193aabb-ccdd-7eff-8000-010203040506/client/*",
        "towline://0193aabb-ccdd-7eff-8000-010203040506/node/1",
        "towline://0193aabb-ccdd-7eff-8000-0102030405ff/client/shop",
        "towline://0193AABB-ccdd-7eff-8000-010203040506/client/shop",
    ] {
        let said = refused("towline://0193aabb-ccdd-7eff-8000-010203040506/client/shop", wrong);
        assert!(said.starts_with("n.toml:31:12: grant.identity: expected \"*\", or towline://0193aabb-"), "{said}");
    }
    for wrong in ["", "*shop", "shop*x", "a/b", "**", "sh?p"] {
        let said = refused("\"shop-*\"", &format!("{wrong:?}"));
        assert!(said.starts_with("n.toml:32:23: grant.namespaces: expected the name of a namespace"), "{said}");
    }
    assert!(refused("\"observe\"", "\"read\"").contains("grant.namespaces: expected namespaces"));
}

#[test]
fn a_grant_to_an_identity_is_refused_where_nobody_has_one() {
    let said = parse(&format!("{GOOD}{GRANTS}")).unwrap_err();
    assert!(said.contains("grant.identity: expected \"*\": without [tls] no client has an identity"), "{said}");
    let plain = GRANTS.replace("towline://0193aabb-ccdd-7eff-8000-010203040506/client/shop", "*");
    assert_eq!(parse(&format!("{GOOD}{plain}")).unwrap().grants.len(), 2);
}

#[test]
fn namespaces_are_read_in_the_order_of_the_file_with_their_shards() {
    let text = format!(
        "{GOOD}\n[[namespace]]\nname = \"orders\"\nshards = 16\n[[namespace]]\nname = \"names\"\nsplit_at = [\"h\", \"p\"]\n\
         [[namespace]]\nname = \"one\"\n"
    );
    let config = parse(&text).unwrap();
    let told: Vec<_> = config.namespaces.iter().map(|space| (space.name.as_str(), space.shards())).collect();
    assert_eq!(told, [("orders", 16), ("names", 3), ("one", 1)]);
    assert_eq!(config.namespaces[1].split_points, [b"h", b"p"]);
    assert_eq!(parse(GOOD).unwrap().namespaces, []);
}

#[test]
fn a_namespace_that_can_not_be_is_refused_at_its_place() {
    let lines = GOOD.lines().count();
    let said = |text: &str| {
        let said = parse(&format!("{GOOD}[[namespace]]\n{text}\n")).unwrap_err();
        said.strip_prefix("etc/node.toml:").unwrap().to_owned()
    };
    let at = |line: usize, column: usize| format!("{}:{column}: ", lines + line);
    let wrong = said("name = \"or/ders\"");
    assert!(wrong.starts_with(&(at(2, 8) + "namespace.name: expected a name of a namespace")), "{wrong}");
    let wrong = said("name = \"default\"");
    assert!(wrong.starts_with(&(at(2, 8) + "namespace.name: expected another name: \"default\"")), "{wrong}");
    let wrong = said("name = \"a\"\n[[namespace]]\nname = \"a\"");
    assert!(wrong.starts_with(&(at(4, 8) + "namespace.name: expected a name that no other")), "{wrong}");
    for count in ["0", "1025"] {
        let wrong = said(&format!("name = \"a\"\nshards = {count}"));
        let expected = format!("namespace.shards: expected 1 to 1024 shards, found {count}");
        assert_eq!(wrong, at(3, 10) + &expected);
    }
    let wrong = said("name = \"a\"\nshards = 2\nsplit_at = [\"m\"]");
    assert!(wrong.starts_with(&(at(3, 10) + "namespace.shards: expected one of shards and split_at")), "{wrong}");
    let wrong = said("name = \"a\"\nsplit_at = [\"m\", \"g\"]");
    assert_eq!(wrong, at(3, 18) + "namespace.split_at: expected a key above \"m\": they ascend, found \"g\"");
    let wrong = said("name = \"a\"\nsplit_at = [\"\"]");
    assert!(wrong.starts_with(&(at(3, 13) + "namespace.split_at: expected a key above \"\"")), "{wrong}");
    let wrong = said("name = \"a\"\nshard = 2");
    assert!(wrong.starts_with(&at(3, 1)) && wrong.contains("shard"), "{wrong}");
    // Each is fine, and all of them together are too many for a node.
    let many: String = (0..17).map(|number| format!("name = \"n{number}\"\nshards = 1024\n[[namespace]]\n")).collect();
    let wrong = said(&(many + "name = \"last\""));
    assert!(
        wrong
            .starts_with(&(at(47, 8) + "namespace.name: expected less in all (the catalog holds at most 16384 shards")),
        "{wrong}"
    );
}
