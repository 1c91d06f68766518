//! [`Servers`]: which servers a command asks, and how patiently.

use crate::failure::{Exit, Failure};
use std::path::PathBuf;
use std::time::Duration;
use towline::client::{Client, ClientError, ClientOptions, ClientTls, CredentialFiles, Route};

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
    /// Speak plain TCP also to servers that are not on loopback: whoever is between reads and changes everything
    #[arg(long, env = "TOWLINE_INSECURE_PLAINTEXT", conflicts_with_all = ["tls_dir", "tls_certificate"])]
    insecure_plaintext: bool,
    #[command(flatten)]
    tls: Tls,
}

/// Where a client's credentials lie. None given: plain TCP.
#[derive(Debug, Clone, clap::Args)]
struct Tls {
    /// A directory with certificate.pem, key.pem and authority.pem, as `towline cert client` writes it: speak TLS
    #[arg(long, env = "TOWLINE_TLS_DIR", value_name = "DIR", conflicts_with_all = ["tls_certificate", "tls_key", "tls_authority"])]
    tls_dir: Option<PathBuf>,
    /// This client's certificate (PEM): speak TLS
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_authority"])]
    tls_certificate: Option<PathBuf>,
    /// The key of that certificate (PEM); only its owner may read the file
    #[arg(long, value_name = "FILE", requires_all = ["tls_certificate", "tls_authority"])]
    tls_key: Option<PathBuf>,
    /// Certificates of the authorities whose servers are believed (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_certificate", "tls_key"])]
    tls_authority: Option<PathBuf>,
}

impl Tls {
    fn open(&self) -> Result<Option<ClientTls>, Failure> {
        let files = match (&self.tls_dir, &self.tls_certificate, &self.tls_key, &self.tls_authority) {
            (Some(directory), ..) => CredentialFiles::in_directory(directory),
            (None, Some(certificate), Some(key), Some(authority)) => CredentialFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                authorities: authority.clone(),
                revoked: None,
            },
            _ => return Ok(None),
        };
        let opened = ClientTls::open(files);
        opened
            .map(Some)
            .map_err(|error| Failure::say(Exit::Usage, format!("TW-{}: {}", error.code(), error.sentence())))
    }
}

impl Servers {
    pub(crate) fn options(&self, route: Route) -> Result<ClientOptions, Failure> {
        let timeout = Duration::from_secs(self.timeout);
        Ok(ClientOptions {
            namespace: self.namespace.clone(),
            route,
            request_timeout: timeout,
            connect_timeout: timeout,
            tls: self.tls.open()?,
            insecure_plaintext: self.insecure_plaintext,
            ..ClientOptions::default()
        })
    }

    /// The first of the servers that answers.
    pub(crate) async fn any(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.addr.clone(), self.options(Route::Any)?).await?)
    }

    /// This one server.
    pub(crate) async fn one(address: &str, options: &ClientOptions) -> Result<Client, ClientError> {
        Client::connect([address], options.clone()).await
    }
}
