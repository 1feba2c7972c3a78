//! A hit as a row of `events_v2`, in ClickHouse's RowBinary.

use crate::domain::hit::{ENGAGEMENT, Hit};
use crate::domain::time::Timestamp;

/// The statement rows go in with. [`encode`] writes exactly these columns; the others have their defaults.
pub const INSERT: &str = "INSERT INTO events_v2 (timestamp, name, site_id, user_id, session_id, hostname, pathname, \
    referrer, referrer_source, country_code, screen_size, operating_system, browser, utm_medium, utm_source, utm_campaign, \
    utm_content, utm_term, `meta.key`, `meta.value`, revenue_source_amount, revenue_source_currency, scroll_depth, \
    engagement_time) FORMAT RowBinary";

/// Of engagement that did not say how far the page was scrolled.
const NO_SCROLL_DEPTH: u8 = 255;

/// Rows that belong together.
#[derive(Debug, Default)]
pub struct Rows {
    /// One after the other.
    pub bytes: Vec<u8>,
    /// Where each ends.
    pub ends: Vec<usize>,
}

impl Rows {
    pub fn of(hits: &[Hit]) -> Self {
        let mut rows = Self::default();
        for hit in hits {
            encode(hit, &mut rows.bytes);
            rows.ends.push(rows.bytes.len());
        }
        rows
    }

    /// Each by itself.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

fn encode(hit: &Hit, into: &mut Vec<u8>) {
    let engagement = hit.name == ENGAGEMENT;
    into.extend_from_slice(&seconds(hit.at).to_le_bytes());
    text(&hit.name, into);
    into.extend_from_slice(&hit.site_id.0.cast_unsigned().to_le_bytes());
    into.extend_from_slice(&hit.visitor.to_le_bytes());
    into.extend_from_slice(&hit.session.to_le_bytes());
    text(&hit.page.hostname, into);
    text(&hit.page.pathname, into);
    text(&hit.origin.referrer, into);
    text(&hit.origin.source, into);
    fixed::<2>(&hit.country, into);
    text(&hit.device.screen_size, into);
    text(&hit.device.operating_system, into);
    text(&hit.device.browser, into);
    text(&hit.origin.utm_medium, into);
    text(&hit.origin.utm_source, into);
    text(&hit.origin.utm_campaign, into);
    text(&hit.origin.utm_content, into);
    text(&hit.origin.utm_term, into);
    length(hit.props.len(), into);
    hit.props.iter().for_each(|(key, _)| text(key, into));
    length(hit.props.len(), into);
    hit.props.iter().for_each(|(_, value)| text(value, into));
    let amount = hit.revenue.as_ref().and_then(|revenue| Some((thousandths(&revenue.amount)?, &revenue.currency)));
    match amount {
        Some((amount, currency)) => {
            into.push(0);
            into.extend_from_slice(&amount.to_le_bytes());
            fixed::<3>(currency, into);
        }
        None => {
            into.push(1);
            fixed::<3>("", into);
        }
    }
    into.push(if engagement { hit.scroll_depth.unwrap_or(NO_SCROLL_DEPTH) } else { 0 });
    into.extend_from_slice(&(if engagement { hit.engagement_ms } else { 0 }).to_le_bytes());
}

/// Whole seconds, cut off, as far as ClickHouse has them.
fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.micros().div_euclid(1_000_000).max(0)).unwrap_or(u32::MAX)
}

fn length(number: usize, into: &mut Vec<u8>) {
    let mut left = number;
    while left >= 0x80 {
        into.push(u8::try_from(left & 0x7f).expect("seven bits fit") | 0x80);
        left >>= 7;
    }
    into.push(u8::try_from(left).expect("seven bits fit"));
}

fn text(text: &str, into: &mut Vec<u8>) {
    length(text.len(), into);
    into.extend_from_slice(text.as_bytes());
}

/// Exactly `N` bytes; zeros for what is not known or does not fit.
fn fixed<const N: usize>(text: &str, into: &mut Vec<u8>) {
    into.extend_from_slice(text.as_bytes().first_chunk::<N>().filter(|_| text.len() == N).unwrap_or(&[0; N]));
}

/// A decimal number with at most three digits after its point, in thousandths; `None` if it has more or does not fit.
fn thousandths(amount: &str) -> Option<i64> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{whole}{fraction:0<3}").parse::<i64>().ok()?;
    // What a Decimal64 holds.
    (digits.unsigned_abs() < 10_u64.pow(18)).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_thousandths() {
        for (text, expected) in [
            ("12.5", Some(12_500)),
            ("-0.001", Some(-1)),
            ("7", Some(7_000)),
            ("1.2345", None),
            ("1.-5", None),
            ("x", None),
            ("", Some(0)),
            ("99999999999999999999", None),
        ] {
            let got = thousandths(text);
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn lengths_are_packed_in_sevens() {
        for (number, expected) in [(0, vec![0]), (127, vec![127]), (128, vec![0x80, 1]), (16_384, vec![0x80, 0x80, 1])]
        {
            let mut bytes = Vec::new();
            length(number, &mut bytes);
            assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn texts_of_another_length_are_not_known() {
        let mut bytes = Vec::new();
        fixed::<2>("DE", &mut bytes);
        fixed::<2>("", &mut bytes);
        fixed::<2>("DEU", &mut bytes);
        assert_eq!(bytes, b"DE\0\0\0\0");
    }
}
