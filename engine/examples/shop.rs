//! A first projection: how many of each item were sold, made of the orders' feed. The guide in the book shows this program.
//!
//! `cargo run --example shop` opens the node `data` in the working directory; each run counts two apples more.

use std::collections::BTreeMap;
use std::time::Duration;
use towline::model::{Expect, Filter, Operation, Policy, Read, Retention, Since, Token, Write};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn named(node: &Node, name: &str, retention: Retention) -> Result<Namespace> {
    let policy = Policy { retention, ..Policy::default() };
    let create = |_| node.create_namespace(name, &NamespaceOptions::default().policy(policy));
    Ok(node.namespace(name).or_else(create)?)
}

fn kept(sales: &Namespace, key: &str) -> Result<Option<String>> {
    let found = sales.get(key, Read::Linearizable)?;
    Ok(found.map(|found| String::from_utf8(found.value.to_vec())).transpose()?)
}

/// Counts what came since it last did. Counts and position are one write: each order is counted once.
fn project(orders: &Namespace, sales: &Namespace) -> Result<()> {
    let token: Token = kept(sales, "token")?.map_or_else(|| Ok(Token::default()), |text| text.parse())?;
    let mut feed = orders.subscribe(Since::Token(token), Filter::All)?;
    let mut sold: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(change) = feed.wait_for(Duration::from_millis(100))? {
        let mut counted = Write::new();
        for operation in &change.operations {
            let Operation::Append { value, .. } = operation else { continue };
            let key = format!("sold/{}", std::str::from_utf8(value)?);
            let before = match sold.get(&key) {
                Some(count) => *count,
                None => kept(sales, &key)?.map_or(Ok(0), |text| text.parse())?,
            };
            counted = counted.put(key.clone(), (before + 1).to_string());
            sold.insert(key, before + 1);
        }
        sales.write(counted.put("token", feed.token().to_string()))?.wait()?;
    }
    Ok(())
}

fn a_day() -> Result<String> {
    let node = Node::open(NodeOptions::alone("data"))?;
    // All orders stay in the log: otherwise no projection could be made anew of them.
    let orders = named(&node, "orders", Retention::Forever)?;
    let sales = named(&node, "sales", Retention::bytes(64 << 20))?;
    for item in ["apple", "pear", "apple"] {
        orders.append("orders", Expect::Any, item)?.wait()?;
    }
    project(&orders, &sales)?;
    let apples = kept(&sales, "sold/apple")?.unwrap_or_default();
    node.close()?;
    Ok(apples)
}

fn main() -> Result<()> {
    println!("{} apples sold", a_day()?);
    Ok(())
}
