//! The remote client: writes to the leader, reads, and asks how a server is, over one connection.
//!
//! [`Client`] finds the leader among the addresses it is given, keeps one connection to it with many requests in
//! flight, and connects anew when it ends. [`WriteReceipt`] is the promise to answer of one write. It is not a
//! cache, and it never retries a write: what is certain is said ([`WriteError::Refused`]), and what is not is said
//! as unknown ([`WriteError::Unknown`]), for the caller to find out by an expected version or by reading.
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

mod connector;
mod error;
mod feed;
mod handle;
mod link;
mod namespace;
mod options;
mod pauses;
mod receipt;
mod session;
mod transport;

#[cfg(test)]
mod cancel_test;
#[cfg(test)]
mod client_test;
#[cfg(test)]
mod retry_test;

pub use error::{ClientError, UnknownCause, WriteError};
pub use feed::Feed;
pub use handle::{Client, ClientStats, StateDigest, StreamPage, VersionedValue};
pub use namespace::Namespace;
pub use options::{ClientOptions, Route};
pub use receipt::{WriteReceipt, Written};
pub use session::{Session, SessionError};
#[cfg(feature = "tls")]
pub use towline_net::driver::tls::{
    CertifiedIdentity, CredentialFiles, Credentials, PeerCertificate, Subject, TlsError,
};
#[cfg(feature = "tls")]
pub use transport::ClientTls;
