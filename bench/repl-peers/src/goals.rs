//! What is aimed at, and how far it is: ratios of the same rounds.

use crate::catch_up::CatchUp;
use crate::load::Case;
use crate::rounds::{Row, median};
use crate::systems::Peer;
use crate::table::{Cell, Table};

const ONE: Case = Case::of(1, 1);
const MANY: Case = Case::of(64, 1);
const SESSIONS: Case = Case { session: true, ..MANY };
const CROWD: Case = Case::of(512, 1);
const PIPELINED: Case = Case::of(8, 64);

/// How many times what each of the others does; that many of PostgreSQL's two are one goal.
const FACTORS: [(Peer, f64); 6] = [
    (Peer::Etcd, 6.0),
    (Peer::NatsAlways, 4.0),
    (Peer::NatsDefault, 1.0),
    (Peer::Redis, 2.5),
    (Peer::PostgresOn, 3.0),
    (Peer::PostgresApply, 3.0),
];
/// Operations a second of eight clients with 64 in flight each.
const PIPELINED_RATE: f64 = 100_000.0;
/// How many times what 64 clients do.
const CROWD_FACTOR: f64 = 1.3;
/// Of what the slowest of disk and loopback does by itself.
const CATCH_UP_FACTOR: f64 = 0.8;
/// While a follower catches up, others wait less than twice as long.
const CATCH_UP_P99: f64 = 0.5;

/// A row for each goal that something was measured for.
pub(crate) fn table(rows: &[Row], caught_up: &[CatchUp]) -> Table {
    let mut table = Table::new("goals", &["what", "ratio", "lowest", "highest", "goal", "met"]);
    let find = |peer: Peer, case: Case| rows.iter().find(|row| row.peer == peer && row.case == case);
    let ours = |case| find(Peer::Towline, case);
    let mut goal = |what: String, ratios: Vec<f64>, at_least: f64| {
        let Some(middle) = median(ratios.iter().copied()) else { return };
        table.row([
            Cell::from(what),
            Cell::ratio(Some(middle)),
            Cell::ratio(ratios.iter().copied().reduce(f64::min)),
            Cell::ratio(ratios.iter().copied().reduce(f64::max)),
            Cell::ratio(Some(at_least)),
            Cell::from(if middle >= at_least { "yes" } else { "no" }),
        ]);
    };
    for (case, name) in [(MANY, "64 clients"), (SESSIONS, "64 clients, each a session")] {
        for (peer, factor) in FACTORS {
            let ratios = rates(ours(case), find(peer, MANY));
            goal(format!("{name}: Towline ÷ {}", peer.name()), ratios, factor);
        }
    }
    // Who syncs nothing before the answer is no measure for one client, who waits for little else.
    for (peer, _) in FACTORS.into_iter().filter(|(peer, _)| *peer != Peer::NatsDefault) {
        let (Some(ours), Some(theirs)) = (ours(ONE), find(peer, ONE)) else { continue };
        let pairs = ours.samples.iter().zip(&theirs.samples);
        goal(format!("1 client: p50 of {} ÷ Towline's", peer.name()), pairs.map(|(a, b)| b.p50 / a.p50).collect(), 1.0);
    }
    goal("512 clients ÷ 64".to_owned(), rates(ours(CROWD), ours(MANY)), CROWD_FACTOR);
    let piped = ours(PIPELINED).map(|row| row.samples.iter().map(|sample| sample.rate / PIPELINED_RATE).collect());
    goal("8 clients × 64 in flight ÷ 100,000/s".to_owned(), piped.unwrap_or_default(), 1.0);
    let of_bounds = caught_up.iter().map(CatchUp::of_least).collect();
    goal("a follower catches up ÷ slowest of disk and loopback".to_owned(), of_bounds, CATCH_UP_FACTOR);
    let waits = caught_up.iter().map(CatchUp::p99_ratio).collect();
    goal("16 clients: p99 before ÷ while a follower catches up".to_owned(), waits, CATCH_UP_P99);
    table
}

/// The ratios of two rows, round by round.
fn rates(of: Option<&Row>, to: Option<&Row>) -> Vec<f64> {
    let (Some(of), Some(to)) = (of, to) else { return Vec::new() };
    of.samples.iter().zip(&to.samples).map(|(of, to)| of.rate / to.rate).collect()
}
