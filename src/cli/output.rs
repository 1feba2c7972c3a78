//! How results look: aligned tables for people, JSON for programs, nothing a terminal could be fooled with.

use std::io::Write as _;

use serde_json::Value;

/// One sentence about what went wrong, and where it came from.
pub fn complain(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "error: {}", printable(&in_words(error)));
}

/// An error and its causes. What an error says of its cause already is not said again.
pub fn in_words(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.ends_with(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// A hint for people; programs read standard output.
pub fn hint(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// A result. A reader that went away is no failure of ours.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", printable(text));
}

/// What we wrote ourselves, to the byte.
pub fn raw(bytes: &[u8]) {
    let _ = std::io::stdout().write_all(bytes);
}

pub fn json(value: &Value) {
    say_json(&serde_json::to_string_pretty(value).expect("JSON serialises"));
}

/// On one line, for those who read line by line.
pub fn json_line(value: &Value) {
    say_json(&value.to_string());
}

/// What a terminal must not see is only ever inside of texts, where JSON has another spelling for it.
fn say_json(text: &str) {
    let mut spelled = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unfit(c) {
            spelled.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            spelled.push(c);
        }
    }
    let _ = writeln!(std::io::stdout(), "{spelled}");
}

/// Text that came from elsewhere, without what could move a cursor, change a colour or turn the reading direction.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_unfit(c) { '\u{fffd}' } else { c }).collect()
}

fn is_unfit(c: char) -> bool {
    let turns_direction = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns_direction || (c.is_control() && c != '\n' && c != '\t')
}

/// Rows under headings, each column as wide as its widest cell.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    let rows: Vec<Vec<_>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell).replace('\n', " ")).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..headings.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        say(padded.join("  ").trim_end());
    };
    line(&headings.iter().map(|heading| heading.to_uppercase()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}

/// Names and values, one a line.
pub fn facts(pairs: &[(&str, String)]) {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in pairs {
        say(format!("{name:<width$}  {}", printable(value)).trim_end());
    }
}

/// The text of a JSON value as people write it: no quotes, nothing for nothing.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_that_it_would_act_on() {
        let text = "a\u{1b}[31mred\u{9b}2J\u{7}\r\u{202e}gpj.exe\tb\nc";
        let said = printable(text);
        assert_eq!(said, "a\u{fffd}[31mred\u{fffd}2J\u{fffd}\u{fffd}\u{fffd}gpj.exe\tb\nc");
    }

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("no connection: {0}")]
        struct Talkative(#[source] std::io::Error);

        let refused = std::io::Error::other("refused");
        let error = anyhow::Error::from(Talkative(refused)).context("the cluster does not answer");
        let said = "the cluster does not answer: no connection: refused";
        assert_eq!(in_words(&error), said);
        let error = anyhow::anyhow!("the file is empty").context("it cannot be read").context("no settings");
        assert_eq!(in_words(&error), "no settings: it cannot be read: the file is empty");
    }
}
