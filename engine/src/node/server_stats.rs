//! A server in numbers.

use towline_net::driver::ListenerStats;

/// What a server's clients do, in numbers. Counters begin at 0 with its start.
///
/// ```
/// use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let config = Config::parse(&directory.path().join("node.toml"), text)?;
/// let server = serve(&config)?;
/// let stats = server.stats();
/// assert_eq!((stats.clients, stats.requests, stats.feeds, stats.denied), (0, 0, 0, 0), "nobody is there yet");
/// # server.shutdown()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerStats {
    /// Clients' connections; each feed of a [`crate::client::Client`] has one of its own.
    pub clients: usize,
    /// Requests without an answer: those that wait, and those that are worked on.
    pub requests: usize,
    /// Feeds that are delivered.
    pub feeds: usize,
    /// Requests and feeds that their client was not allowed (TW-8007).
    pub denied: u64,
    /// Assignments of this node as a leader by hand that were asked, whatever came of them.
    pub assignments: u64,
    /// Bytes held for clients: what they asked for and have not taken, and what they sent and is not done. Up to 64 KiB of each
    /// connection are not counted.
    pub held_bytes: u64,
    /// Connections that ended because that was more than [`Config::clients_bytes`](super::Config::clients_bytes) (TW-3027).
    pub ended_for_memory: u64,
    /// Connections of clients and nodes alike: how many came, were turned away, failed in their handshake or ended, and by which codes.
    pub connections: ListenerStats,
}
