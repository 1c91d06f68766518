//! [`ClientOptions`]: how long a client waits, how much it has in flight, and whom it asks.

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
    /// Requests in flight; more wait in the call. It bounds memory at both ends.
    pub in_flight_max: usize,
}

/// Whom requests go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// The leader, among the addresses given: for writes, and for reads that see them.
    Leader,
    /// Whichever address answers first, in their order: for looking at one server. Writes fail where it does not
    /// lead.
    Any,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            route: Route::Leader,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            in_flight_max: 1024,
        }
    }
}
