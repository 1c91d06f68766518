//! Finding the server to talk to: each address in turn, the leader by what they say, for as long as it is allowed.

use super::addresses::Addresses;
use super::error::ClientError;
use super::link::{Answer, Heard, Link};
use super::options::{ClientOptions, Route};
use super::pauses::Pauses;
use super::transport::{Miss, renew};
use crate::model::NodeId;
use crate::model::codec;
use crate::model::request::{FailureClass, Request, RequestBody, ResponseBody, ServerStatus};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long one address may take to connect and to say how it is.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than anybody waits: a deadline must be a time that there is.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Which server is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The one that the options say; where that is the leader, and a server has named it, that node as it is.
    Routed(Option<NodeId>),
    /// This node; or, if it is at none of the addresses, whoever answers.
    Node(NodeId),
    /// The one that the options say; or, if it is at none of the addresses now, whoever answers.
    LeaderOrAny,
    /// Whoever answers.
    Any,
}

/// Finds a server that can be used. What any server answers is noted in `heard`, and who is where in `addresses`.
pub(super) async fn connect(
    addresses: &Addresses,
    options: &ClientOptions,
    mut wanted: Wanted,
    heard: &Arc<Heard>,
) -> Result<Link, ClientError> {
    if addresses.len() == 0 {
        return Err(ClientError::NoAddress);
    }
    let deadline = Instant::now() + options.connect_timeout.min(WAIT_MAX);
    let mut pauses = Pauses::new();
    let mut tried = Vec::new();
    loop {
        renew(options).await;
        match timeout_at(deadline, round(addresses, options, wanted, heard)).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(Said::NotNow(said))) => tried = said,
            Ok(Err(Said::Never(error))) => return Err(error),
            Err(_) if tried.is_empty() => tried = vec![format!("{addresses}: no answer")],
            Err(_) => {} // Out of time in mid-round: what the round before was told stands.
        }
        if matches!(wanted, Wanted::Routed(_)) {
            wanted = Wanted::Routed(None); // Whoever was named had its turn.
        }
        let pause = pauses.next();
        if Instant::now() + pause >= deadline {
            return Err(ClientError::Unreachable { waited: options.connect_timeout, tried });
        }
        sleep(pause).await;
    }
}

/// Whoever is at this address; none: nobody that can be used now. It waits as long as its caller does.
pub(super) async fn connect_any(address: &str, options: &ClientOptions, heard: &Arc<Heard>) -> Option<Link> {
    renew(options).await;
    match look(address, options, Wanted::Any, heard).await {
        Ok(Seen::Usable(link)) => Some(link),
        Ok(Seen::Passed(_) | Seen::Other { .. }) | Err(_) => None,
    }
}

/// What a round over all addresses came to.
enum Said {
    /// Nobody who can be used; there may be in the next one.
    NotNow(Vec<String>),
    /// Waiting mends nothing: certificates are in the way and no server was reached, or an address may not be dialled, or a server
    /// says that what is asked for is not there.
    Never(ClientError),
}

/// One look at every address.
async fn round(
    addresses: &Addresses,
    options: &ClientOptions,
    wanted: Wanted,
    heard: &Arc<Heard>,
) -> Result<Link, Said> {
    let mut tried = Vec::new();
    let mut passed = None;
    let (mut is_reached, mut is_untrusted) = (false, false);
    let first = match wanted {
        Wanted::Routed(node) => node,
        Wanted::Node(node) => Some(node),
        Wanted::LeaderOrAny | Wanted::Any => None,
    };
    for address in addresses.in_order(first) {
        let attempt = timeout(ADDRESS_TIMEOUT, look(address, options, wanted, heard));
        match attempt.await.unwrap_or_else(|_| Err(Miss::NotNow("no answer".to_owned()))) {
            Ok(Seen::Usable(link)) => {
                addresses.note(address, link.node());
                return Ok(link);
            }
            Ok(Seen::Passed(link)) => {
                addresses.note(address, link.node());
                passed = passed.or(Some(link));
            }
            Ok(Seen::Other { node, leader }) => {
                addresses.note(address, node);
                is_reached = true;
                tried.push(match leader {
                    Some(leader) if leader == node => format!("{address}: node {node} leads, and takes no writes yet"),
                    Some(leader) => format!("{address}: node {node} follows node {leader}"),
                    None => format!("{address}: node {node} knows no leader"),
                });
            }
            Err(Miss::NotNow(why)) => tried.push(format!("{address}: {why}")),
            Err(Miss::Plaintext(address)) => return Err(Said::Never(ClientError::Plaintext { address })),
            Err(Miss::Refused(failure)) => return Err(Said::Never(ClientError::Refused(failure))),
            Err(Miss::Untrusted(why)) => {
                is_untrusted = true;
                tried.push(format!("{address}: {why}"));
            }
        }
    }
    if let Some(link) = passed {
        return Ok(link);
    }
    let is_never = is_untrusted && !is_reached;
    Err(if is_never { Said::Never(ClientError::Untrusted { tried }) } else { Said::NotNow(tried) })
}

enum Seen {
    Usable(Link),
    /// It answers, or even serves, and is another one than was looked for.
    Passed(Link),
    Other {
        node: NodeId,
        leader: Option<NodeId>,
    },
}

async fn look(address: &str, options: &ClientOptions, wanted: Wanted, heard: &Arc<Heard>) -> Result<Seen, Miss> {
    let resolved: Vec<SocketAddr> =
        tokio::net::lookup_host(address).await.map_err(|error| format!("{error}"))?.collect();
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut said = Miss::NotNow("the name has no address".to_owned());
    for candidate in resolved {
        match Link::open(candidate, host, options, heard).await {
            Ok(link) if wanted == Wanted::Any || wanted == Wanted::Node(link.node()) => return Ok(Seen::Usable(link)),
            Ok(link) if matches!(wanted, Wanted::Node(_)) => return Ok(Seen::Passed(link)),
            Ok(link) if options.route == Route::Any => return Ok(Seen::Usable(link)),
            Ok(link) if wanted == Wanted::Routed(Some(link.node())) => {
                // If it does not lead yet, it has what it is asked wait: sooner than a question and a pause would come to it.
                link.try_again();
                return Ok(Seen::Usable(link));
            }
            Ok(link) => {
                let status = status(&link, options).await?;
                // Another one was named: whoever was cut off believes that it serves.
                let is_other = matches!(wanted, Wanted::Routed(Some(_)));
                if status.serving && !is_other {
                    return Ok(Seen::Usable(link));
                }
                if status.serving || wanted == Wanted::LeaderOrAny {
                    return Ok(Seen::Passed(link));
                }
                return Ok(Seen::Other { node: link.node(), leader: status.leader });
            }
            Err(why) => said = why,
        }
    }
    Err(said)
}

/// How the server at the other end is. It waits as long as its caller does.
async fn status(link: &Link, options: &ClientOptions) -> Result<ServerStatus, Miss> {
    let place = Arc::new(Semaphore::new(1)).acquire_owned().await.map_err(|error| error.to_string())?;
    let namespace = options.namespace.clone();
    let request = |id| codec::encode(&Request { id, deadline_ms: 0, namespace, body: RequestBody::Status });
    let answer = link
        .send(place, None, Instant::now() + ADDRESS_TIMEOUT, request)
        .await
        .map_err(|failure| format!("{failure:?}"))?;
    match answer.await {
        Answer::Body(ResponseBody::Status(status)) => Ok(status),
        Answer::Body(ResponseBody::Failed(failure)) if failure.class == FailureClass::FixRequest => {
            Err(Miss::Refused(failure))
        }
        Answer::Body(ResponseBody::Failed(failure)) => Err(failure.message.into()),
        Answer::Body(_) => Err("its answer is not understood".to_owned().into()),
        Answer::ConnectionLost => Err("the connection ended before it answered".to_owned().into()),
    }
}
