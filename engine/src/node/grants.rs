//! `[[grant]]`: what the configuration lets clients do.

use super::access::{Action, Authorizer, Caller, Decision, Verb};
use super::config::{Checker, ConfigError, Quoted};
use crate::model::ClusterId;
use crate::model::namespace::check_name;
use serde::Deserialize;
use std::fmt;
use toml::Spanned;

/// Whoever is let in; the end of a pattern, whatever comes there.
const ANY: &str = "*";
/// Bytes of a client's name at the most, as in certificates.
const CLIENT_NAME_BYTES_MAX: usize = 64;

/// What a client may do, as one `[[grant]]` of a configuration says it. There may be several for the same client: it may
/// do what any of them says.
///
/// ```
/// use towline::node::Config;
/// use towline::node::access::{Action, Authorizer, Caller, Decision, Grants, Verb};
/// let text = r#"
///     cluster = "0193aabb-ccdd-7eff-8000-010203040506"
///     node_id = 1
///     data_dir = "/var/lib/towline"
///     listen = "127.0.0.1:0"
///     shard = { leader = 1 }
///     node = [{ id = 1, address = "127.0.0.1:7400" }]
///     grant = [{ identity = "*", namespaces = ["shop", "shop-*"], actions = ["read", "write"] }]
/// "#;
/// let config = Config::parse("node-1.toml".as_ref(), text)?;
/// assert_eq!(config.grants[0].actions, [Verb::Read, Verb::Write]);
/// let grants = Grants::new(config.grants);
/// let anybody = Caller::new(None, "127.0.0.1:4711".parse()?);
/// let decide = |verb, namespace| grants.decide(&anybody, &Action::new(verb, Some(namespace)));
/// assert_eq!(decide(Verb::Read, "shop-2"), Decision::Allow);
/// assert_eq!(decide(Verb::Read, "shops"), Decision::Deny);
/// assert_eq!(decide(Verb::Manage, "shop-2"), Decision::Deny);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// Whom its certificate names; `*`: every client, also one over plain TCP.
    pub identity: String,
    /// Names of namespaces; with a `*` at the end, all names that begin so.
    pub namespaces: Vec<String>,
    /// What it may do there.
    pub actions: Vec<Verb>,
}

impl Grant {
    fn allows(&self, caller: &Caller, action: &Action<'_>) -> bool {
        let is_caller = self.identity == ANY || caller.identity.as_ref() == Some(&self.identity);
        let is_there = match action.namespace {
            Some(name) => self.namespaces.iter().any(|pattern| admits(pattern, name)),
            // Of the server itself there is nothing else to do.
            None => action.verb == Verb::Observe,
        };
        is_caller && is_there && self.actions.contains(&action.verb)
    }
}

fn admits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix(ANY).map_or(pattern == name, |begin| name.starts_with(begin))
}

/// The grants of a configuration, as what decides. Without any, whoever is let in may do everything.
///
/// ```
/// use towline::node::Config;
/// use towline::node::access::{Action, Authorizer, Caller, Decision, Grants, Verb};
/// # use towline::node::serve_with;
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let config = Config::parse(&directory.path().join("node.toml"), text)?;
/// // A program's own rule beside those of the file: nobody drops the ledger.
/// let grants = Grants::new(config.grants.clone());
/// let server = serve_with(&config, move |caller: &Caller, action: &Action<'_>| match action.namespace {
///     Some("ledger") if action.verb == Verb::Manage => Decision::Deny,
///     _ => grants.decide(caller, action),
/// })?;
/// # server.shutdown()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    all: Vec<Grant>,
}

impl Grants {
    /// Of a configuration.
    #[must_use]
    pub const fn new(all: Vec<Grant>) -> Self {
        Self { all }
    }
}

impl Authorizer for Grants {
    fn decide(&self, caller: &Caller, action: &Action<'_>) -> Decision {
        let is_allowed = self.all.is_empty() || self.all.iter().any(|grant| grant.allows(caller, action));
        if is_allowed { Decision::Allow } else { Decision::Deny }
    }
}

/// One `[[grant]]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantText {
    identity: Spanned<String>,
    #[serde(default)]
    namespaces: Vec<Spanned<String>>,
    actions: Spanned<Vec<Spanned<String>>>,
}

/// Whether clients have certificates here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certificates {
    Shown,
    Unknown,
}

impl Checker<'_> {
    /// A `[[grant]]` of a configuration of this cluster.
    pub(super) fn grant(
        &self,
        grant: &GrantText,
        cluster: ClusterId,
        certificates: Certificates,
    ) -> Result<Grant, ConfigError> {
        let GrantText { identity, namespaces, actions } = grant;
        let who = identity.get_ref();
        let wrong = |expected: &dyn fmt::Display| {
            self.wrong(identity.span(), "grant.identity", expected.to_string(), Quoted(who))
        };
        if who != ANY {
            let begin = format!("towline://{cluster}/client/");
            if !who.strip_prefix(&begin).is_some_and(is_client_name) {
                return Err(wrong(&format_args!("\"*\", or {begin}<name>")));
            }
            if certificates == Certificates::Unknown {
                return Err(wrong(&"\"*\": without [tls] no client has an identity"));
            }
        }
        let actions = self.actions(actions)?;
        for pattern in namespaces {
            let begin = pattern.get_ref().strip_suffix(ANY).unwrap_or(pattern.get_ref());
            if check_name(begin).is_err() && pattern.get_ref() != ANY {
                let expected = "the name of a namespace, with a \"*\" at its end for all that begin so".into();
                return Err(self.wrong(pattern.span(), "grant.namespaces", expected, Quoted(pattern.get_ref())));
            }
        }
        if namespaces.is_empty() && actions != [Verb::Observe] {
            let expected = "namespaces: \"observe\" alone does without".into();
            return Err(self.wrong(identity.span(), "grant.namespaces", expected, "none"));
        }
        let namespaces = namespaces.iter().map(|pattern| pattern.get_ref().clone()).collect();
        Ok(Grant { identity: who.clone(), namespaces, actions })
    }

    fn actions(&self, actions: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<Verb>, ConfigError> {
        let all = Verb::ALL.map(|verb| verb.to_string()).join(", ");
        let wrong = |span, found: &dyn fmt::Display| {
            self.wrong(span, "grant.actions", format!("one or more of {all}"), format_args!("{found}"))
        };
        if actions.get_ref().is_empty() {
            return Err(wrong(actions.span(), &"none"));
        }
        let verb = |name: &Spanned<String>| {
            Verb::named(name.get_ref()).ok_or_else(|| wrong(name.span(), &Quoted(name.get_ref())))
        };
        actions.get_ref().iter().map(verb).collect()
    }
}

/// As certificates name clients.
fn is_client_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=CLIENT_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}
