//! `pulsehook backtest`: what a trigger would have done, over a site's history (a client of the API) or over a file.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::client::{Connection, id_of};
use super::output::{self, plain};
use crate::domain::backtest::silence::{self, Traffic};
use crate::domain::backtest::{self, Backtest, Heard};
use crate::domain::baseline::{WINDOW, WindowCount};
use crate::domain::habit::QUARTER;
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;
use crate::domain::trigger::{Direction, Settings};

/// Points of the series that `--json` prints at most, as the API does.
const POINTS: usize = 2_000;
/// A gap in a file that is longer than this is taken for a mistake, not for silence.
const LONGEST_GAP: i64 = 366 * 288;

/// Show when a trigger would have fired, over a site's history or a file of counts
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["counts", "site"]))]
pub struct BacktestCommand {
    /// Rows of `timestamp,value`: visitors of each five minutes (or completions, for goal_stalled), oldest first
    #[arg(long, value_name = "FILE")]
    counts: Option<PathBuf>,
    /// Id or domain
    #[arg(long)]
    site: Option<String>,
    /// visitor_spike, visitor_drop, no_data or goal_stalled; of a site also goal_completion, custom_event or milestone
    #[arg(long = "type", value_name = "TYPE", default_value = "visitor_spike")]
    kind: String,
    /// goal_completion, goal_stalled, milestone: the goal's id
    #[arg(long, value_name = "ID", requires = "site")]
    goal: Option<String>,
    /// custom_event: its name
    #[arg(long, value_name = "NAME", requires = "site")]
    event: Option<String>,
    /// goal_completion, custom_event: together, so long after the first (15m) or so many (100)
    #[arg(long, requires = "site")]
    batch: Option<String>,
    /// no_data: for how long [default: 1h]
    #[arg(long)]
    after: Option<String>,
    /// milestone: visitors, pageviews or conversions
    #[arg(long, requires = "site")]
    metric: Option<String>,
    /// milestone: day, week or month [default: day]
    #[arg(long, requires = "site")]
    period: Option<String>,
    /// milestone: every multiple of this
    #[arg(long, requires = "site")]
    step: Option<u64>,
    /// Percent above or below what is expected [default: 50]
    #[arg(long)]
    threshold: Option<u32>,
    /// low, normal or high [default: normal]
    #[arg(long)]
    sensitivity: Option<String>,
    /// typical, previous or fixed [default: typical]
    #[arg(long)]
    baseline: Option<String>,
    /// Fewer visitors than this never fire [default: 10]
    #[arg(long)]
    min_visitors: Option<u32>,
    /// Shortest time between two firings, such as 30m
    #[arg(long)]
    cooldown: Option<String>,
    /// How long it has to last, such as 10m
    #[arg(long)]
    min_duration: Option<String>,
    /// Only on this path, in which * stands for any characters
    #[arg(long, value_name = "PATH", requires = "site")]
    page: Option<String>,
    /// Only of visits from this source
    #[arg(long, requires = "site")]
    source: Option<String>,
    /// Only from this country, by its two letters
    #[arg(long, requires = "site")]
    country: Option<String>,
    /// Only on this host
    #[arg(long, requires = "site")]
    hostname: Option<String>,
    /// Time zone of the file's days, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", conflicts_with = "site")]
    timezone: Option<String>,
    /// The last so many days of the site
    #[arg(long, conflicts_with_all = ["counts", "from"])]
    days: Option<u32>,
    /// First moment, such as 2026-02-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Last moment
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// Types of what lasts for a while: it is over some time, and counts alone say something of it.
const LASTING: [&str; 4] = ["visitor_spike", "visitor_drop", "no_data", "goal_stalled"];
const NOT_OF_COUNTS: &str = "type must be visitor_spike, visitor_drop, no_data or goal_stalled: counts say no more";

impl BacktestCommand {
    pub async fn run(self) -> anyhow::Result<()> {
        let answer = match (&self.counts, &self.site) {
            (Some(file), _) => self.of_file(file)?,
            (None, Some(site)) => {
                let mut body = self.trigger();
                body.extend(given([
                    ("days", self.days.map(Value::from)),
                    ("from", self.from.clone().map(Value::from)),
                    ("to", self.to.clone().map(Value::from)),
                ]));
                let path = format!("/api/sites/{}/triggers/backtest", id_of(site));
                self.connection.client()?.post(&path, body).await?
            }
            (None, None) => bail!("say --counts FILE or --site DOMAIN"),
        };
        if self.connection.json {
            output::json(&answer);
        } else {
            show(&answer);
        }
        Ok(())
    }

    fn trigger(&self) -> Map<String, Value> {
        let text = |text: &Option<String>| text.clone().map(Value::from);
        let batch =
            self.batch.as_ref().map(|batch| batch.parse::<u64>().map_or_else(|_| batch.clone().into(), Value::from));
        // How long it lasted is worth a column.
        let ends = LASTING.contains(&self.kind.as_str());
        given([
            ("type", Some(self.kind.clone().into())),
            ("threshold", self.threshold.map(Value::from)),
            ("sensitivity", text(&self.sensitivity)),
            ("baseline", text(&self.baseline)),
            ("min_visitors", self.min_visitors.map(Value::from)),
            ("cooldown", text(&self.cooldown)),
            ("min_duration", text(&self.min_duration)),
            ("goal_id", text(&self.goal)),
            ("event_name", text(&self.event)),
            ("batch", batch),
            ("after", text(&self.after)),
            ("metric", text(&self.metric)),
            ("period", text(&self.period)),
            ("step", self.step.map(Value::from)),
            ("page", text(&self.page)),
            ("source", text(&self.source)),
            ("country", text(&self.country)),
            ("hostname", text(&self.hostname)),
            ("notify_end", ends.then_some(true.into())),
        ])
    }

    /// The same over a file, in the shape of the API's answer.
    fn of_file(&self, file: &Path) -> anyhow::Result<Value> {
        // Before anything else about it: what such a type needs besides is of no use here.
        anyhow::ensure!(LASTING.contains(&self.kind.as_str()), NOT_OF_COUNTS);
        let mut trigger = self.trigger();
        if self.kind == "goal_stalled" {
            // The file is of one goal, whichever that is.
            trigger.insert("goal_id".to_owned(), "0".into());
        }
        let settings = Settings::parse(&trigger).map_err(|invalid| anyhow::anyhow!("{invalid}"))?;
        let name = self.timezone.as_deref().unwrap_or("UTC");
        let zone = TimeZone::get(name).with_context(|| format!("\"{name}\" is no time zone"))?;
        let bound = |text: &Option<String>| {
            text.as_deref().map(moment).transpose().context("times look like 2026-02-25T10:00:00Z")
        };
        let (from, to) = (bound(&self.from)?.unwrap_or(Timestamp::from_micros(i64::MIN)), bound(&self.to)?);
        let opened = std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut windows = counts(BufReader::new(opened)).with_context(|| file.display().to_string())?;
        windows.retain(|window| to.is_none_or(|to| window.start < to));
        let Some((first, last)) = windows.first().zip(windows.last()).map(|(first, last)| (first.start, last.start))
        else {
            bail!("{} has no rows", file.display());
        };
        let span = first.max(from)..last + WINDOW;
        let (done, width) = match &settings {
            Settings::VisitorSpike(change) => (backtest::run(Direction::Rise, change, windows, &zone, from), WINDOW),
            Settings::VisitorDrop(change) => (backtest::run(Direction::Fall, change, windows, &zone, from), WINDOW),
            Settings::NoData(no_data) => {
                let heard = heard(&windows);
                let quarters = silence::quarters(&heard);
                let traffic = Traffic { site_id: SiteId(0), zone: &zone, quarters: &quarters, heard: &heard };
                (silence::no_data(no_data, traffic, span.clone()), QUARTER)
            }
            Settings::GoalStalled(stalled) => {
                let heard = heard(&windows);
                let quarters = silence::quarters(&heard);
                let traffic = Traffic { site_id: SiteId(0), zone: &zone, quarters: &quarters, heard: &heard };
                (silence::goal_stalled(stalled, "The goal", traffic, None, span.clone()), QUARTER)
            }
            _ => bail!(NOT_OF_COUNTS),
        };
        let Backtest { firings, series, suggestions, basis } = done;
        Ok(json!({
            "from": span.start,
            "to": span.end,
            "window_seconds": width.as_secs(),
            "windows": series.len(),
            "basis": basis,
            "firings_total": firings.len(),
            "firings": firings,
            "series": backtest::thin(series, POINTS),
            "suggestions": suggestions,
        }))
    }
}

/// When something happened. Where in a window it did is not known: from its beginning to its end, so that no silence is taken for
/// longer than it was.
fn heard(windows: &[WindowCount]) -> Vec<Heard> {
    let busy = windows.iter().filter(|window| window.visitors > 0);
    let heard = |window: &WindowCount| Heard {
        first_at: window.start,
        last_at: window.start + WINDOW,
        count: window.visitors.into(),
    };
    busy.map(heard).collect()
}

fn given<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Reads `timestamp,value` rows, with or without a heading. Windows that are missing count as empty.
///
/// # Errors
/// Names the first line that is not a row, or not five minutes (or a multiple) after the one before.
fn counts(lines: impl BufRead) -> anyhow::Result<Vec<WindowCount>> {
    let width = i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX);
    let mut windows: Vec<WindowCount> = Vec::new();
    for (line, number) in lines.lines().zip(1u64..) {
        let line = line.with_context(|| format!("line {number} is not text"))?;
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() || (number == 1 && line.to_ascii_lowercase().starts_with("timestamp")) {
            continue;
        }
        let (time, value) =
            line.split_once(',').with_context(|| format!("line {number} is not timestamp,value: \"{line}\""))?;
        let start = moment(time).with_context(|| {
            format!("line {number}: \"{time}\" is no time; times look like 2026-02-25 10:00:00 or 2026-02-25T10:00:00Z")
        })?;
        let visitors = value.trim().parse::<f64>().ok().filter(|value| *value >= 0.0 && *value <= f64::from(u32::MAX));
        let Some(visitors) = visitors else {
            bail!("line {number}: \"{}\" is no count; counts are numbers of at least 0", value.trim());
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "looked at before")]
        let visitors = visitors.round() as u32;
        if let Some(last) = windows.last().copied() {
            let apart = start.micros() - last.start.micros();
            if apart <= 0 {
                bail!("line {number}: {time} does not come after the line before");
            }
            if apart % width != 0 {
                bail!("line {number}: {time} is not a multiple of five minutes after the line before");
            }
            if apart / width > LONGEST_GAP {
                bail!("line {number}: {time} is more than a year after the line before");
            }
            let missing = (1..apart / width).map(|step| Timestamp::from_micros(last.start.micros() + step * width));
            windows.extend(missing.map(|start| WindowCount { start, visitors: 0 }));
        }
        windows.push(WindowCount { start, visitors });
    }
    Ok(windows)
}

/// RFC 3339, or a date and a time of day in UTC.
fn moment(text: &str) -> anyhow::Result<Timestamp> {
    let text = text.trim();
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let civil: jiff::civil::DateTime = text.parse()?;
    Ok(Timestamp::from_micros(TimeZone::UTC.to_timestamp(civil)?.as_microsecond()))
}

fn show(answer: &Value) {
    let firings = answer["firings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let windows = match answer["windows"].as_u64().unwrap_or(0) {
        1 => "1 window".to_owned(),
        more => format!("{more} windows"),
    };
    let width = if answer["window_seconds"] == 900 { "a quarter of an hour" } else { "five minutes" };
    let total = answer["firings_total"].as_u64().unwrap_or(0);
    let (from, to) = (plain(&answer["from"]), plain(&answer["to"]));
    if firings.is_empty() {
        output::say(&format!("It would not have fired in {windows} of {width}, {from} to {to}."));
    } else {
        let times = if total == 1 { "once".to_owned() } else { format!("{total} times") };
        output::say(&format!("It would have fired {times} in {windows} of {width}, {from} to {to}:\n"));
        let rows: Vec<_> = firings
            .iter()
            .map(|firing| ["timestamp", "observed", "expected", "reason"].map(|name| plain(&firing[name])).to_vec())
            .collect();
        output::table(&["time", "observed", "expected", "why"], &rows);
    }
    for suggestion in answer["suggestions"].as_array().into_iter().flatten() {
        let often = if suggestion["per_month"] == 1 { "once a month" } else { "once a week" };
        output::say(&format!(
            "For about {often} or less: --threshold {} (it would have fired {} times).",
            suggestion["threshold"], suggestion["firings"]
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_windows_are_empty_ones() {
        let rows = "timestamp,value\n2015-02-26 21:42:53,104\n2015-02-26T21:57:53Z,3\n";
        let read = counts(rows.as_bytes()).unwrap();
        assert_eq!(read.iter().map(|window| window.visitors).collect::<Vec<_>>(), [104, 0, 0, 3]);
        assert_eq!(read[1].start.to_string(), "2015-02-26T21:47:53Z");
    }

    #[test]
    fn what_is_no_row_is_named_by_its_line() {
        let first = "2015-02-26 21:42:53,104\n";
        for (second, complaint) in [
            ("nonsense", "line 2 is not timestamp,value"),
            ("yesterday,5", "line 2: \"yesterday\" is no time"),
            ("2015-02-26 21:47:53,many", "line 2: \"many\" is no count"),
            ("2015-02-26 21:47:53,-1", "line 2: \"-1\" is no count"),
            ("2015-02-26 21:42:53,1", "does not come after"),
            ("2015-02-26 21:45:00,1", "not a multiple of five minutes"),
            ("2019-02-26 21:42:53,1", "more than a year"),
        ] {
            let error = counts(format!("{first}{second}\n").as_bytes()).expect_err(second);
            assert!(format!("{error:#}").contains(complaint), "{error:#}");
        }
    }
}
