//! [`ClientOptions`]: how long a client waits, how much it has in flight, and whom it asks.

#[cfg(feature = "tls")]
use super::transport::ClientTls;
use std::time::Duration;

/// How a client behaves. The defaults suit a data centre.
///
/// ```
/// use towline::client::{ClientOptions, Route};
/// let options = ClientOptions { route: Route::Any, ..ClientOptions::default() };
/// assert_eq!(options.namespace, "default");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// The namespace.
    pub namespace: String,
    /// Whom requests go to.
    pub route: Route,
    /// How long one request may take once a server was found. A write past it is unknown, not failed.
    pub request_timeout: Duration,
    /// How long a lost (or not yet found) server is looked for before a call fails.
    pub connect_timeout: Duration,
    /// Requests in flight; more wait in the call. It bounds memory at both ends. All servers share it: what one does not answer keeps its
    /// place until its time is over, or that connection ends.
    pub in_flight_max: usize,
    /// Connections to the server, 64 at the most. Requests about one key (of a session: about one shard) take the same one: they
    /// arrive in the order in which they were sent, and with one connection all of them do that go to one node. Of namespaces beside the
    /// default one there are as many to each node that leads something; and one to each address, to ask who does.
    pub connections: usize,
    /// Credentials for TLS; none: plain TCP, to servers on loopback only.
    #[cfg(feature = "tls")]
    pub tls: Option<ClientTls>,
    /// Plain TCP also to servers that are not on loopback: whoever is between reads and changes everything.
    pub insecure_plaintext: bool,
}

/// Whom requests go to.
///
/// ```
/// use towline::client::{Client, ClientOptions, Route, WriteError};
/// use towline::model::{NodeId, Write};
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 2 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }, { id = 2, address = '127.0.0.1:1' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// // At this address is node 1, which follows node 2.
/// let client = Client::connect([address], ClientOptions { route: Route::Any, ..ClientOptions::default() }).await?;
/// assert!(!client.status().await?.serving);
/// match client.write(Write::new().put("a", "1").record()).await?.await {
///     Err(WriteError::Refused(failure)) => assert_eq!(failure.leader, Some(NodeId::new(2)), "write there"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// The leader, among the addresses given: for writes, and for reads that see them. Of namespaces beside the default one, the leader of
    /// the key's shard; of what is about all keys, who leads all shards.
    Leader,
    /// Whichever address answers first, in their order: for looking at one server. Writes fail where it does not
    /// lead.
    Any,
}

/// The namespace that every node has, with one shard.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            namespace: DEFAULT_NAMESPACE.to_owned(),
            route: Route::Leader,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            in_flight_max: 1024,
            connections: 1,
            #[cfg(feature = "tls")]
            tls: None,
            insecure_plaintext: false,
        }
    }
}
