//! A table of figures: as text for people, or a line of JSON for each row.

use comfy_table::{CellAlignment, Table as Grid};
use serde_json::{Map, Value};

/// One cell.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Text(String),
    /// A figure, and the decimals that mean something.
    Number(f64, usize),
    /// There is no such figure.
    Nothing,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Cell {
    /// A ratio, where there is something to compare with.
    pub(crate) fn ratio(ratio: Option<f64>) -> Self {
        ratio.map_or(Self::Nothing, |ratio| Self::Number(ratio, 2))
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(figure, decimals) => thousands(&format!("{figure:.decimals$}")),
            Self::Nothing => String::new(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Number(figure, decimals) => {
                let scale = 10_f64.powi(i32::try_from(*decimals).unwrap_or(0));
                Value::from((figure * scale).round() / scale)
            }
            Self::Nothing => Value::Null,
        }
    }
}

/// Digits in threes: 150964 is 150,964.
fn thousands(number: &str) -> String {
    let (whole, rest) = number.find('.').map_or((number, ""), |dot| number.split_at(dot));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// A table that is being filled.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    notes: Vec<String>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), rows: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// A sentence below the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints it; nothing if it has no rows.
    pub(crate) fn print(&self, json: bool) {
        if self.rows.is_empty() {
            return;
        }
        if json { self.print_json() } else { self.print_text() }
    }

    fn print_text(&self) {
        println!("\n{}", self.title);
        let mut grid = Grid::new();
        grid.load_style(comfy_table::presets::ASCII_MARKDOWN);
        grid.set_header(self.columns.iter().copied());
        for row in &self.rows {
            grid.add_row(row.iter().map(Cell::text));
        }
        for column in 0..self.columns.len() {
            let is_number = |row: &Vec<Cell>| matches!(row.get(column), Some(Cell::Number(..)));
            if self.rows.iter().any(is_number)
                && let Some(column) = grid.column_mut(column)
            {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        println!("{grid}");
        for note in &self.notes {
            println!("{note}");
        }
    }

    fn print_json(&self) {
        for row in &self.rows {
            let mut object = Map::new();
            object.insert("table".to_owned(), Value::from(self.title.as_str()));
            for (column, cell) in self.columns.iter().zip(row) {
                object.insert((*column).to_owned(), cell.json());
            }
            println!("{}", Value::Object(object));
        }
    }
}

/// Says on the standard error what is being measured.
pub(crate) fn progress(what: &str) {
    eprintln!("... {what}");
}
