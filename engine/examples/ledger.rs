//! An event-sourced ledger: accounts are streams of events, balances are a projection that is rebuilt from the feed.
//!
//! `cargo run --example ledger --features node -- DIRECTORY`: each run moves money, and compares the balances that it kept
//! with those that it makes anew of the whole history. Kill it at any time and run it again: the totals agree.

use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use towline::model::{Change, Expect, Filter, Operation, Policy, Read, Retention, Since, Token, Write};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions};

const ACCOUNTS: u64 = 20;
const OPENING_BALANCE: i64 = 100;
const TRANSFERS: u64 = 500;

/// Balances by account, and the position of the feed that they are of. Kept in a namespace of the same node: both change in
/// one write, so that each event is counted once, whatever happens.
struct Balances {
    kept: Namespace,
    balances: BTreeMap<String, i64>,
    token: Token,
}

impl Balances {
    fn open(kept: Namespace) -> Result<Self> {
        let token = match kept.get("token", Read::Linearizable)? {
            Some(found) => std::str::from_utf8(&found.value)?.parse()?,
            None => Token::default(),
        };
        let (mut balances, mut next) = (BTreeMap::new(), Some(towline::model::Scan::prefix("balance/")));
        while let Some(scan) = next {
            let page = kept.scan(&scan, Read::Linearizable)?;
            for entry in &page.entries {
                let account = std::str::from_utf8(&entry.key)?.trim_start_matches("balance/").to_owned();
                balances.insert(account, std::str::from_utf8(&entry.value)?.parse()?);
            }
            next = page.next;
        }
        Ok(Self { kept, balances, token })
    }

    /// Counts everything that the ledger holds beyond what is counted.
    fn catch_up(&mut self, ledger: &Namespace) -> Result<u64> {
        let mut feed = ledger.subscribe(Since::Token(self.token.clone()), Filter::Prefix("account-".into()))?;
        let mut counted = 0;
        while let Some(change) = feed.wait_for(Duration::ZERO)? {
            let mut write = Write::new();
            for (account, amount) in postings(&change)? {
                let balance = self.balances.entry(account.clone()).or_default();
                *balance += amount;
                write = write.put(format!("balance/{account}"), balance.to_string());
            }
            self.token = feed.token();
            self.kept.write(write.put("token", self.token.to_string()))?.wait()?;
            counted += 1;
        }
        Ok(counted)
    }
}

/// What a change means: amounts by account.
fn postings(change: &Change) -> Result<Vec<(String, i64)>> {
    let mut postings = Vec::new();
    for operation in &change.operations {
        let Operation::Append { stream, value, .. } = operation else { bail!("a ledger only grows") };
        postings.push((std::str::from_utf8(stream)?.to_owned(), std::str::from_utf8(value)?.parse()?));
    }
    Ok(postings)
}

/// Moves an amount, if the account has as many events as were seen: nobody else has changed it meanwhile.
fn transfer(ledger: &Namespace, from: &str, to: &str, amount: i64) -> Result<bool> {
    let bounds = (usize::MAX, usize::MAX);
    let history =
        ledger.read_stream(from, 1, towline::model::request::Direction::Forward, bounds, Read::Linearizable)?;
    let mut balance = 0;
    for event in &history.events {
        balance += std::str::from_utf8(&event.value)?.parse::<i64>()?;
    }
    if balance < amount {
        return Ok(false);
    }
    let seen = Expect::Version(history.head);
    let write = Write::new().append(from.to_owned(), seen, (-amount).to_string()).append(
        to.to_owned(),
        Expect::Any,
        amount.to_string(),
    );
    Ok(ledger.write(write)?.wait()?.outcome.applied().is_ok())
}

fn named(node: &Node, name: &str) -> Result<Namespace> {
    match node.namespace(name) {
        Ok(found) => Ok(found),
        Err(_) => {
            let forever = Policy { retention: Retention::Forever, ..Policy::default() };
            Ok(node.create_namespace(name, &NamespaceOptions::default().policy(forever))?)
        }
    }
}

fn run(directory: &Path) -> Result<()> {
    let node = Node::open(NodeOptions::alone(directory))?;
    let (ledger, kept) = (named(&node, "ledger")?, named(&node, "balances")?);
    for account in 0..ACCOUNTS {
        // The second run finds it there.
        let opening = ledger.append(format!("account-{account}"), Expect::Absent, OPENING_BALANCE.to_string())?;
        opening.wait()?;
    }
    let mut balances = Balances::open(kept)?;
    println!("counted {} events that an earlier run left", balances.catch_up(&ledger)?);

    let moved = std::thread::scope(|scope| {
        let movers: Vec<_> = (0..4_u64)
            .map(|mover| {
                let ledger = &ledger;
                scope.spawn(move || {
                    let mut moved = 0_u64;
                    for number in 0..TRANSFERS / 4 {
                        let pick = number.wrapping_mul(7919).wrapping_add(mover * 31);
                        let (from, to) = (pick % ACCOUNTS, (pick / 7 + 1) % ACCOUNTS);
                        if from != to {
                            let (from, to) = (format!("account-{from}"), format!("account-{to}"));
                            moved += u64::from(transfer(ledger, &from, &to, i64::try_from(pick % 9)? + 1)?);
                        }
                    }
                    Ok::<_, anyhow::Error>(moved)
                })
            })
            .collect();
        movers.into_iter().try_fold(0, |sum, mover| match mover.join() {
            Ok(moved) => Ok::<_, anyhow::Error>(sum + moved?),
            Err(_) => bail!("a mover panicked"),
        })
    })?;
    println!("moved money {moved} times, counted {} events", balances.catch_up(&ledger)?);

    // The projection, made anew of the whole history: the same.
    let mut again: BTreeMap<String, i64> = BTreeMap::new();
    let mut feed = ledger.subscribe(Since::Beginning, Filter::Prefix("account-".into()))?;
    while let Some(change) = feed.wait_for(Duration::ZERO)? {
        for (account, amount) in postings(&change)? {
            *again.entry(account).or_default() += amount;
        }
    }
    ensure!(again == balances.balances, "the balances that were kept are those of the history");
    let total: i64 = again.values().sum();
    ensure!(total == OPENING_BALANCE * i64::try_from(ACCOUNTS)?, "no money was made or lost: {total}");
    ensure!(again.values().all(|balance| *balance >= 0), "no account is overdrawn");
    println!("{} accounts hold {total} in all, as they should", again.len());
    node.close()?;
    Ok(())
}

fn main() -> Result<()> {
    match std::env::args_os().nth(1) {
        Some(directory) => run(Path::new(&directory)),
        None => {
            let directory = tempfile::tempdir()?;
            // Twice: the second run begins where the first one ended.
            run(directory.path()).and_then(|()| run(directory.path())).context("in a directory that is removed again")
        }
    }
}
