//! The state tables of the book, held to the code: each row of docs/src/protocol.md, chapter 'States', is driven through a
//! real connection, and what it says and becomes is compared with the row's own words.

mod of_connections;
mod of_streams;
mod peer;

const BOOK: &str = include_str!("../../../docs/src/protocol.md");

/// A row of a state table.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    state: &'static str,
    happens: &'static str,
    said: &'static str,
    then: &'static str,
}

/// The rows of the table whose first column has this head and that begins behind this line.
fn table(behind: &str, head: &str) -> Vec<Row> {
    let (_, text) = BOOK.split_once(behind).expect("the book has this chapter");
    let begin = format!("| {head} |");
    let rows =
        text.lines().skip_while(|line| !line.starts_with(&begin)).skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [state, happens, said, then] = cells[..] else { panic!("four cells: {line}") };
        Row { state, happens, said, then }
    })
    .collect()
}
