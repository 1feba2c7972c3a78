//! What ClickHouse complains about, in a sentence, and whether it may pass by itself.

use clickhouse::error::Error;

use crate::analytics::AnalyticsError;

/// Codes of what only somebody can mend: unknown identifier, function, table, database or setting; syntax; wrong password;
/// not allowed; read-only.
const TO_BE_MENDED: [u32; 12] = [16, 36, 46, 47, 60, 62, 81, 115, 164, 192, 497, 516];

/// More statements at once than the server, or the user's profile, takes.
const TOO_MANY: u32 = 202;

/// The driver's error as ours. What may pass by itself is [`AnalyticsError::Unavailable`], or [`AnalyticsError::Crowded`].
pub fn explain(error: Error) -> AnalyticsError {
    match error {
        Error::BadResponse(text) => {
            let sentence = sentence(&text);
            match code(&text) {
                Some(code) if TO_BE_MENDED.contains(&code) => AnalyticsError::Refused(sentence),
                Some(TOO_MANY) => AnalyticsError::Crowded(sentence),
                _ => AnalyticsError::Unavailable(sentence),
            }
        }
        Error::SchemaMismatch(what) => AnalyticsError::Refused(format!("a column is not of the type we know: {what}")),
        Error::Network(error) => AnalyticsError::Unavailable(innermost(error.as_ref())),
        error => AnalyticsError::Unavailable(error.to_string()),
    }
}

/// `Code: 60. DB::Exception: …` begins every complaint of a server, wherever in an answer it stands.
pub fn code(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Without what only ClickHouse's authors want to know; one line, not too long.
fn sentence(text: &str) -> String {
    const MOST: usize = 300;
    let text = text.split_once("DB::Exception: ").map_or(text, |(_, rest)| rest);
    let text = text.split(" (version ").next().unwrap_or(text);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None if line.is_empty() => "it answered with an error and no reason".to_owned(),
        None => line,
    }
}

/// The cause at the bottom: what is above it says only that there was one.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_apart_and_shortened() {
        let text = "Code: 60. DB::Exception: Table x.events_v2 does not exist. (UNKNOWN_TABLE) (version 24.3.3.102)";
        assert_eq!(code(text), Some(60));
        let error = explain(Error::BadResponse(text.to_owned()));
        assert!(
            matches!(&error, AnalyticsError::Refused(said) if said == "Table x.events_v2 does not exist. (UNKNOWN_TABLE)")
        );
        let busy = explain(Error::BadResponse("Code: 202. DB::Exception: Too many".to_owned()));
        assert!(matches!(busy, AnalyticsError::Crowded(said) if said == "Too many"));
        let page = explain(Error::BadResponse("<html>\n  502 Bad\n Gateway</html>".to_owned()));
        assert!(matches!(page, AnalyticsError::Unavailable(said) if said == "<html> 502 Bad Gateway</html>"));
        let long = explain(Error::BadResponse("ä".repeat(1_000)));
        assert!(matches!(long, AnalyticsError::Unavailable(said) if said.chars().count() == 301));
    }
}
