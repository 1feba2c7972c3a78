//! Figures: what was measured in each run, the median of it, and what it should be.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::cli::output;

/// What a value should be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// A named figure on one database, or on none. Values are added run by run; the median of them is the result.
#[derive(Debug)]
pub struct Figure {
    name: &'static str,
    on: Option<Kind>,
    about: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    /// Its name with its unit: `wal_bytes_per_delivery`.
    key: String,
    runs: Vec<f64>,
    target: Option<Target>,
}

/// The two databases the product keeps its queue in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Sqlite,
    Postgres,
}

impl Figure {
    pub fn new(name: &'static str, on: Option<Kind>, about: impl Into<String>) -> Self {
        Self { name, on, about: about.into(), rows: Vec::new() }
    }

    /// What one run measured. Rows are shown in the order in which they were first added.
    pub fn add(&mut self, key: impl Into<String>, value: f64) {
        let key = key.into();
        match self.rows.iter_mut().find(|row| row.key == key) {
            Some(row) => row.runs.push(value),
            None => self.rows.push(Row { key, runs: vec![value], target: None }),
        }
    }

    /// Says what the median of a row should be. A row that was never added has no target to miss.
    pub fn target(&mut self, key: &str, target: Target) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.key == key) {
            row.target = Some(target);
        }
    }

    pub fn show(&self, as_json: bool) {
        output::say(&if as_json { self.json().to_string() } else { self.text() });
    }

    fn json(&self) -> Value {
        let (mut object, mut targets, mut runs) = (Map::new(), Map::new(), Map::new());
        object.insert("figure".to_owned(), json!(self.name));
        object.insert("database".to_owned(), json!(self.on.map(Kind::key)));
        for row in &self.rows {
            object.insert(row.key.clone(), json!(row.median()));
            runs.insert(row.key.clone(), json!(row.runs));
            if let Some(target) = row.target {
                let verdict = json!({"target": target.to_string(), "met": target.is_met(row.median())});
                targets.insert(row.key.clone(), verdict);
            }
        }
        object.insert("targets".to_owned(), Value::Object(targets));
        object.insert("runs".to_owned(), Value::Object(runs));
        Value::Object(object)
    }

    fn text(&self) -> String {
        let on = self.on.map_or(String::new(), |kind| format!(" on {kind}"));
        let mut lines = vec![format!("{}{on}: {}", self.name, self.about)];
        let width = self.rows.iter().map(|row| row.key.len()).max().unwrap_or(0);
        for row in &self.rows {
            let verdict = match row.target {
                None => String::new(),
                Some(target) if target.is_met(row.median()) => format!("   target {target}"),
                Some(target) => format!("   target {target}: MISSED"),
            };
            lines.push(format!("  {:<width$}  {:>10}{verdict}", row.key.replace('_', " "), shown(row.median())));
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Row {
    fn median(&self) -> f64 {
        percentile(&self.runs, 50)
    }
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

impl Kind {
    fn key(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        })
    }
}

/// The value below which so many of a hundred lie; zero when there is none.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(position).copied().unwrap_or(0.0)
}

/// About three digits of it.
fn shown(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 || size == 0.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_runs() {
        let mut figure = Figure::new("drain", Some(Kind::Postgres), "a test");
        for ratio in [0.1, 0.6, 0.5] {
            figure.add("ratio", ratio);
        }
        figure.target("ratio", Target::AtLeast(0.45));
        figure.target("never_measured", Target::AtMost(1.0));
        let json = figure.json();
        assert_eq!(json["database"], "postgres");
        assert_eq!(json["ratio"], 0.5);
        assert_eq!(json["runs"]["ratio"], json!([0.1, 0.6, 0.5]));
        assert_eq!(json["targets"], json!({"ratio": {"target": "≥ 0.45", "met": true}}));
        assert!(figure.text().contains("target ≥ 0.45"), "{}", figure.text());
    }

    #[test]
    fn numbers_are_short() {
        let texts = [1_234_567.8, 123.45, 12.345, 0.5, 0.0123, 0.0, -1_000.0].map(shown);
        assert_eq!(texts, ["1,234,568", "123", "12.3", "0.50", "0.0123", "0.00", "-1,000"]);
    }
}
