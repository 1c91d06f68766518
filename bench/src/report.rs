//! Tables of words and figures, and figures as people read them.

use comfy_table::{CellAlignment, Table};
use std::time::Duration;

/// A table whose first column is words and whose others are figures.
#[must_use]
pub fn table<const N: usize>(header: [&str; N], lines: Vec<[String; N]>) -> Table {
    let mut table = Table::new();
    table.set_header(header);
    table.add_rows(lines);
    for column in 1..N {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Bytes as mebibytes.
#[must_use]
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A time, as seconds.
#[must_use]
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// So many in this time.
#[must_use]
pub fn rate(count: u64, time: Duration) -> String {
    format!("{:.0}/s", count as f64 / time.as_secs_f64())
}

/// One number in terms of another.
#[must_use]
pub fn ratio(of: u64, to: u64) -> String {
    format!("{:.2}", of as f64 / to as f64)
}
