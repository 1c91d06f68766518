//! Who may do what: what a client asks is put to an [`Authorizer`] here, before anything is done for it.
//!
//! Which [`Action`] a request is stands in one place, and only what was let in there is served: a new request that nobody
//! thought of does not compile.

use super::failure;
use super::shard::now;
use crate::control::DEFAULT_NAME;
use crate::model::call::{Answer, Call};
use crate::model::namespace::check_name;
use crate::model::request::{Failure, Request, RequestBody, ResponseBody, ServerStatus};
use parking_lot::Mutex;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use towline_net::driver::network_of;

pub use super::grants::{Grant, Grants};

/// A denial is told in the log so often at the most, with the number of those that were not: who is denied can ask a
/// hundred thousand times a second.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Decides what clients may do. It is asked for every request and every feed, on a thread that moves bytes: it must not
/// wait for anything. What it allows goes on when it would no longer be allowed: a feed until its connection ends.
///
/// A closure is one:
///
/// ```
/// # #[cfg(feature = "client")] {
/// use towline::client::{Client, ClientOptions};
/// use towline::model::{NamespaceOptions, Read};
/// use towline::node::access::{Action, Caller, Decision, Verb};
/// # use towline::node::{Config, serve_with};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let config = Config::parse(&directory.path().join("node.toml"), text)?;
/// let server = serve_with(&config, |caller: &Caller, action: &Action<'_>| {
///     let is_local = caller.address.ip().is_loopback();
///     if is_local && action.verb == Verb::Read { Decision::Allow } else { Decision::Deny }
/// })?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let client = Client::connect([address], ClientOptions::default()).await?;
/// assert!(client.namespace("default").get("a", Read::Linearizable).await?.is_none());
/// let denied = client.create_namespace("shop", &NamespaceOptions::default()).await.unwrap_err();
/// assert_eq!(denied.code(), "TW-8007");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Authorizer: Send + Sync {
    /// Whether this client may do this.
    fn decide(&self, caller: &Caller, action: &Action<'_>) -> Decision;
}

impl<F: Fn(&Caller, &Action<'_>) -> Decision + Send + Sync> Authorizer for F {
    fn decide(&self, caller: &Caller, action: &Action<'_>) -> Decision {
        self(caller, action)
    }
}

/// A client that asks for something.
///
/// ```
/// use towline::node::access::Caller;
/// let name = "towline://0193aabb-ccdd-7eff-8000-010203040506/client/shop";
/// let shop = Caller::new(Some(name.to_owned()), "127.0.0.1:4711".parse()?);
/// assert!(shop.identity.is_some_and(|identity| identity.ends_with("/client/shop")));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caller {
    /// Whom its certificate names, `towline://<cluster uuid>/client/<name>`; none: it came over plain TCP, and can be
    /// anybody.
    pub identity: Option<String>,
    /// Where it connected from.
    pub address: SocketAddr,
}

impl Caller {
    /// A client of this identity, at this address.
    #[must_use]
    pub const fn new(identity: Option<String>, address: SocketAddr) -> Self {
        Self { identity, address }
    }

    /// Whoever shares this name shares what a server holds for its clients: nobody can choose many of them.
    pub(super) fn owner(&self) -> String {
        self.identity.clone().unwrap_or_else(|| network_of(self.address.ip()).to_string())
    }
}

/// What a client wants to do.
///
/// ```
/// use towline::node::access::{Action, Verb};
/// let action = Action::new(Verb::Write, Some("shop"));
/// assert_eq!(action.to_string(), "write in namespace \"shop\"");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Action<'a> {
    /// What kind of thing.
    pub verb: Verb,
    /// The namespace that it is about, which may not exist, and whose name may be none; none: the server itself.
    pub namespace: Option<&'a str>,
}

impl<'a> Action<'a> {
    /// Of this kind, in this namespace.
    #[must_use]
    pub const fn new(verb: Verb, namespace: Option<&'a str>) -> Self {
        Self { verb, namespace }
    }
}

impl fmt::Display for Action<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace {
            None => write!(f, "{} the server", self.verb),
            // What a client sends stands in nobody's log unless it is a name, which is short and plain.
            Some(name) if check_name(name).is_err() => write!(f, "{} in what is no namespace", self.verb),
            Some(name) => write!(f, "{} in namespace {name:?}", self.verb),
        }
    }
}

/// The kinds of things that clients do. As text, in a configuration, each is its name in small letters.
///
/// ```
/// use towline::node::access::Verb;
/// assert_eq!(Verb::named("subscribe"), Some(Verb::Subscribe));
/// assert_eq!(Verb::ALL.map(|verb| verb.to_string()).join(" "), "read write subscribe manage assign observe");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verb {
    /// Reads what a namespace holds.
    Read,
    /// Writes to it, also by a session.
    Write,
    /// Has what takes effect in it delivered.
    Subscribe,
    /// Makes it, renames it (for which both names must be allowed), sets its policy, removes it.
    Manage,
    /// Says which node leads its shards.
    Assign,
    /// Sees how the server is: positions, sizes, the digest of its state, all namespaces together.
    Observe,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Read, Self::Write, Self::Subscribe, Self::Manage, Self::Assign, Self::Observe];
    /// Those that are about a namespace: who may do one of them there may know that it exists.
    const IN_NAMESPACES: [Self; 5] = [Self::Read, Self::Write, Self::Subscribe, Self::Manage, Self::Assign];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Subscribe => "subscribe",
            Self::Manage => "manage",
            Self::Assign => "assign",
            Self::Observe => "observe",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an [`Authorizer`] says.
///
/// ```
/// use towline::node::access::{Action, Authorizer, Caller, Decision, Grants, Verb};
/// // Of a configuration without any grant: everybody who was let in may do everything.
/// let anybody = Caller::new(None, "127.0.0.1:4711".parse()?);
/// let decision = Grants::default().decide(&anybody, &Action::new(Verb::Write, Some("shop")));
/// assert_eq!(decision, Decision::Allow);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It is done.
    Allow,
    /// It is not, and the client hears that it may not, and nothing else: not even whether there is such a namespace.
    Deny,
}

/// What it takes to be served.
#[derive(Debug, PartialEq, Eq)]
enum Needs<'a> {
    /// To be let in at all. What is answered depends on what else one may do: see [`Access::shown`].
    Nothing,
    /// To know that the namespace exists.
    Sight(&'a str),
    This(Action<'a>),
    Both([Action<'a>; 2]),
}

/// Which action a request is. No `_` here: whoever adds a request says what it takes.
fn needs<'a>(namespace: &'a str, body: &'a RequestBody) -> Needs<'a> {
    let this = |verb| Needs::This(Action::new(verb, Some(namespace)));
    match body {
        // Otherwise no client would find the leader.
        RequestBody::Status => Needs::Nothing,
        RequestBody::Digest => Needs::This(Action::new(Verb::Observe, None)),
        RequestBody::Write { .. } => this(Verb::Write),
        RequestBody::Get { .. } | RequestBody::ReadStream { .. } => this(Verb::Read),
        RequestBody::Call(call) => match call {
            Call::Write { .. } | Call::OpenSession | Call::CloseSession { .. } => this(Verb::Write),
            Call::MultiGet { .. } | Call::Scan { .. } | Call::ReadStream { .. } | Call::Token => this(Verb::Read),
            Call::OpenSnapshot { .. } | Call::Look { .. } | Call::CloseSnapshot { .. } => this(Verb::Read),
            Call::Followers | Call::ForgetFollower { .. } | Call::Acknowledge { .. } => this(Verb::Subscribe),
            Call::Describe | Call::Shards => Needs::Sight(namespace),
            Call::Namespaces => Needs::Nothing,
            Call::CreateNamespace { .. } | Call::SetPolicy { .. } | Call::DropNamespace => this(Verb::Manage),
            Call::AssignLeader { .. } => this(Verb::Assign),
            Call::RenameNamespace { to } => {
                Needs::Both([namespace, to].map(|name| Action::new(Verb::Manage, Some(name))))
            }
        },
    }
}

/// Something that its client may ask.
#[derive(Debug)]
pub(super) struct Admitted<T>(T);

impl<T> Admitted<T> {
    pub(super) fn into_inner(self) -> T {
        self.0
    }
}

/// Where a server's clients are let in or denied.
#[derive(Clone)]
pub(super) struct Door {
    authorizer: Arc<dyn Authorizer>,
    denials: Arc<Denials>,
}

/// What one client may do.
#[derive(Clone)]
pub(super) struct Access {
    door: Door,
    caller: Arc<Caller>,
}

#[derive(Default)]
struct Denials {
    count: AtomicU64,
    /// When one was told last, and how many were not since.
    told: Mutex<(Option<Instant>, u64)>,
}

impl Denials {
    /// One more, at this time; if it is to be told, how many were not.
    fn count(&self, now: Instant) -> Option<u64> {
        // A figure for people, which orders nothing.
        self.count.fetch_add(1, Ordering::Relaxed);
        let (last, untold) = &mut *self.told.lock();
        if last.is_some_and(|last| now.saturating_duration_since(last) < TOLD_EVERY) {
            *untold += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(untold))
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    pub(super) fn new(authorizer: impl Authorizer + 'static) -> Self {
        Self { authorizer: Arc::new(authorizer), denials: Arc::default() }
    }

    pub(super) fn of(&self, caller: Caller) -> Access {
        Access { door: self.clone(), caller: Arc::new(caller) }
    }

    /// How often a client was denied something.
    pub(super) fn denied(&self) -> u64 {
        self.denials.count.load(Ordering::Relaxed)
    }
}

impl Access {
    /// # Errors
    /// The client may not ask this; it is counted, and told.
    pub(super) fn admit(&self, mut request: Request) -> Result<Admitted<Request>, Failure> {
        if matches!(request.body, RequestBody::Status) && !self.sees(&request.namespace) {
            // Otherwise it would tell whether there is such a namespace.
            request.namespace = DEFAULT_NAME.to_owned();
        }
        let denied = match needs(&request.namespace, &request.body) {
            Needs::Nothing => None,
            Needs::Sight(name) => (!self.sees(name)).then(|| Action::new(Verb::Read, Some(name))),
            Needs::This(action) => self.denied(action),
            Needs::Both(actions) => actions.into_iter().find_map(|action| self.denied(action)),
        };
        match denied {
            None => Ok(Admitted(request)),
            Some(action) => Err(self.deny(&action)),
        }
    }

    /// # Errors
    /// As [`Access::admit`].
    pub(super) fn admit_feed<T>(&self, wanted: T, namespace: impl Fn(&T) -> &str) -> Result<Admitted<T>, Failure> {
        match self.denied(Action::new(Verb::Subscribe, Some(namespace(&wanted)))) {
            None => Ok(Admitted(wanted)),
            Some(action) => Err(self.deny(&action)),
        }
    }

    /// As much of an answer as this client may see.
    pub(super) fn shown(&self, answer: ResponseBody) -> ResponseBody {
        match answer {
            ResponseBody::Answer(Answer::Namespaces(mut all)) => {
                all.retain(|namespace| self.sees(&namespace.name));
                ResponseBody::Answer(Answer::Namespaces(all))
            }
            ResponseBody::Status(status) if self.denied(Action::new(Verb::Observe, None)).is_some() => {
                ResponseBody::Status(who_leads(&status))
            }
            answer => answer,
        }
    }

    fn denied<'a>(&self, action: Action<'a>) -> Option<Action<'a>> {
        (self.door.authorizer.decide(&self.caller, &action) != Decision::Allow).then_some(action)
    }

    fn sees(&self, namespace: &str) -> bool {
        Verb::IN_NAMESPACES.into_iter().any(|verb| self.denied(Action::new(verb, Some(namespace))).is_none())
    }

    fn deny(&self, action: &Action<'_>) -> Failure {
        if let Some(untold) = self.door.denials.count(now()) {
            tracing::warn!(untold, "TW-8007: {self} is not allowed to {action}");
        }
        failure::not_allowed(action)
    }
}

/// Who it is, for the log.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Caller { identity, address } = &*self.caller;
        write!(f, "{} at {address}", identity.as_deref().unwrap_or("a client without a certificate"))
    }
}

/// What every client must know of a server, and nothing of what it does.
fn who_leads(status: &ServerStatus) -> ServerStatus {
    ServerStatus {
        node: status.node,
        leader: status.leader,
        serving: status.serving,
        epoch: status.epoch,
        end: 0,
        durable: 0,
        committed: 0,
        applied: 0,
        wire_bytes_sent: 0,
        log_bytes: 0,
        batch_bytes: (0, 0),
        followers: Vec::new(),
    }
}

#[cfg(test)]
#[path = "access_test.rs"]
mod tests;
