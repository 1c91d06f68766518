//! The client: what a program holds that asks a server, or with the feature `node` the node in its own process. Which of them it is, the
//! constructor says, and nothing else.
//!
//! [`Client`] finds the leader among the addresses it is given, keeps a connection to it with many requests in
//! flight (or several), and connects anew when it ends. [`WriteReceipt`] is the promise to answer of one write. It is not a
//! cache, and it never retries a write: what is certain is said ([`WriteError::Refused`]), and what is not is said
//! as unknown ([`WriteError::Unknown`]), for the caller to find out by an expected version or by reading. Requests that are tried
//! again by themselves are those of a [`Session`]: each takes effect once.
//!
//! ```no_run
//! use towline::client::{Client, ClientOptions};
//! use towline::model::{Expect, Operation, Outcome, Record};
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let client = Client::connect(["127.0.0.1:7401", "127.0.0.1:7402"], ClientOptions::default()).await?;
//! let event = Operation::Append {
//!     stream: "order-42".into(), expect: Expect::Absent, metadata: Default::default(), value: "placed".into(),
//! };
//! let receipt = client.write(&Record::of(vec![event])).await?; // sent, not yet answered: more can follow it
//! assert_eq!(receipt.await?.outcome, Outcome::Applied { version: 1 });
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod addresses;
mod connector;
mod error;
mod feed;
mod follower;
mod handle;
mod link;
#[cfg(feature = "node")]
mod local;
mod namespace;
mod options;
mod pauses;
mod receipt;
mod routing;
mod scouts;
mod servers;
mod session;
mod snapshot;
mod spares;
mod transport;

#[cfg(test)]
mod cancel_test;
#[cfg(test)]
mod client_test;
#[cfg(test)]
mod handover_test;
#[cfg(test)]
mod retry_test;
#[cfg(test)]
mod routes_test;

pub use error::{ClientError, UnknownCause, WriteError};
pub use feed::Feed;
pub use follower::Follower;
pub use handle::{Client, ClientStats, StateDigest, StreamPage, VersionedValue};
pub use namespace::{Assigned, Namespace};
pub use options::{ClientOptions, Route};
pub use receipt::{WriteReceipt, Written};
pub use session::{Session, SessionError};
pub use snapshot::Snapshot;
#[cfg(feature = "tls")]
pub use towline_net::driver::tls::{
    CertifiedIdentity, CredentialFiles, Credentials, PeerCertificate, Subject, TlsError,
};
#[cfg(feature = "tls")]
pub use transport::ClientTls;
