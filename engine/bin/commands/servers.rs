//! [`Servers`]: which servers a command asks, and how patiently.

use std::time::Duration;
use towline::client::{Client, ClientError, ClientOptions, Route};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Servers {
    /// Servers to ask, as HOST:PORT, separated by commas
    #[arg(
        long,
        env = "TOWLINE_ADDR",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT"
    )]
    pub(crate) addr: Vec<String>,
    /// The namespace
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) namespace: String,
    /// How long to wait for a server, in seconds
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
}

impl Servers {
    pub(crate) fn options(&self, route: Route) -> ClientOptions {
        let timeout = Duration::from_secs(self.timeout);
        ClientOptions {
            namespace: self.namespace.clone(),
            route,
            request_timeout: timeout,
            connect_timeout: timeout,
            ..ClientOptions::default()
        }
    }

    /// The first of the servers that answers.
    pub(crate) async fn any(&self) -> Result<Client, ClientError> {
        Client::connect(self.addr.clone(), self.options(Route::Any)).await
    }

    /// This one server.
    pub(crate) async fn one(&self, address: &str) -> Result<Client, ClientError> {
        Client::connect([address], self.options(Route::Any)).await
    }
}
