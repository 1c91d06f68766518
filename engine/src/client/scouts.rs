//! [`Scouts`]: all servers are asked who leads what, each over a connection that is for that only.

use super::addresses::Addresses;
use super::connector;
use super::link::{Answer, Heard, Link};
use super::options::ClientOptions;
use super::routing::Told;
use crate::model::call::{Answer as Answered, Call};
use crate::model::codec;
use crate::model::request::{Request, RequestBody, ResponseBody};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// How long the others are waited for when most have answered.
const OTHERS_WITHIN: Duration = Duration::from_millis(100);

/// One for each address.
#[derive(Debug)]
pub(super) struct Scouts {
    all: Vec<Arc<Scout>>,
    /// Where it is noted who answers.
    addresses: Arc<Addresses>,
}

#[derive(Debug)]
struct Scout {
    address: String,
    /// Held while it asks.
    link: Mutex<Option<Link>>,
    /// Connections made.
    connects: AtomicU64,
}

impl Scouts {
    pub(super) fn new(addresses: Arc<Addresses>) -> Self {
        let scout = |address: &str| {
            Arc::new(Scout { address: address.to_owned(), link: Mutex::default(), connects: AtomicU64::new(0) })
        };
        Self { all: addresses.in_order(None).map(scout).collect(), addresses }
    }

    /// Connections made beyond the first of each.
    pub(super) fn reconnects(&self) -> u64 {
        // Relaxed: a figure for people.
        self.all.iter().map(|scout| scout.connects.load(Ordering::Relaxed).saturating_sub(1)).sum()
    }

    /// Ends the connections. What is asked has ended before: it looks at the same `closed`.
    pub(super) async fn close(&self) {
        for scout in &self.all {
            if let Some(link) = scout.link.lock().await.take() {
                link.close();
            }
        }
    }

    /// What all say who answer until then: also of those that nobody can reach but this client, and those that lag behind.
    /// What one says is not enough: a node that is cut off from the others does not know who leads instead of it.
    pub(super) async fn ask(
        &self,
        namespace: &str,
        options: &ClientOptions,
        mut end: Instant,
        closed: &watch::Sender<bool>,
        heard: &Arc<Heard>,
    ) -> Vec<Told> {
        // Dropped, it ends them.
        let mut asked = JoinSet::new();
        for scout in &self.all {
            let (scout, namespace, options) = (Arc::clone(scout), namespace.to_owned(), options.clone());
            let (mut closed, heard, addresses) = (closed.subscribe(), Arc::clone(heard), Arc::clone(&self.addresses));
            asked.spawn(async move {
                tokio::select! {
                    biased;
                    _ = closed.wait_for(|closed| *closed) => None,
                    told = scout.ask(namespace, &options, end, &addresses, &heard) => told,
                }
            });
        }
        let mut told = Vec::new();
        while let Ok(Some(said)) = timeout_at(end, asked.join_next()).await {
            // Whoever can't be asked says nothing; why, is told by whoever connects to it for something else.
            told.extend(said.ok().flatten());
            if 2 * told.len() > self.all.len() {
                end = end.min(Instant::now() + OTHERS_WITHIN);
            }
        }
        told
    }
}

impl Scout {
    async fn ask(
        &self,
        namespace: String,
        options: &ClientOptions,
        end: Instant,
        addresses: &Addresses,
        heard: &Arc<Heard>,
    ) -> Option<Told> {
        let mut slot = self.link.lock().await;
        // Out of its place until it has answered: one over which nothing comes is not asked once more.
        let link = match slot.take().filter(Link::is_usable) {
            Some(link) => link,
            None => {
                let link = connector::connect_any(&self.address, options, heard).await?;
                self.connects.fetch_add(1, Ordering::Relaxed);
                link
            }
        };
        // Not of the client's places in flight: these may be taken by requests that wait for what is asked here.
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.ok()?;
        let left = end.saturating_duration_since(Instant::now()).as_millis();
        let deadline_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        let body = RequestBody::Call(Call::Shards);
        let request = move |id| codec::encode(&Request { id, deadline_ms, namespace, body });
        let places = match link.send(place, None, end, request).await.ok()?.await {
            Answer::Body(ResponseBody::Answer(Answered::Shards(places))) => places,
            Answer::Body(_) => Vec::new(),
            Answer::ConnectionLost => return None,
        };
        let node = link.node();
        addresses.note(&self.address, node);
        *slot = Some(link);
        Some(Told { node, places })
    }
}
