//! The embedded analytics store: what goes in is what comes out, from memory and from the file.

use std::path::Path;
use std::time::Duration;

use pulsehook::analytics::Dimension;
use pulsehook::analytics::sqlite::{Embedded, HitSeq};
use pulsehook::domain::hit::{Device, ENGAGEMENT, Hit, Origin, PAGEVIEW, Page, Revenue};
use pulsehook::domain::ids::SiteId;
use pulsehook::domain::time::Timestamp;

const SITE: SiteId = SiteId(7);
const START: Timestamp = Timestamp::from_secs(1_772_000_100);
/// More than is kept in memory.
const MANY: u64 = 6_000;

fn hit(visitor: u64, secs: u64, path: &str) -> Hit {
    Hit {
        site_id: SITE,
        at: START + Duration::from_secs(secs),
        name: PAGEVIEW.to_owned(),
        visitor: visitor.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        session: u64::MAX - visitor,
        page: Page { hostname: "example.com".to_owned(), pathname: path.to_owned() },
        origin: Origin { source: "Hacker News".to_owned(), ..Origin::default() },
        country: String::new(),
        device: Device { browser: "Firefox".to_owned(), ..Device::default() },
        props: vec![("plan".to_owned(), "pro ✓ \"quoted\"".to_owned())],
        interactive: visitor.is_multiple_of(2),
        scroll_depth: (visitor.is_multiple_of(3)).then_some(80),
        engagement_ms: 1_500,
        revenue: Some(Revenue { amount: "12.5".to_owned(), currency: "EUR".to_owned() }),
    }
}

async fn open(folder: &Path) -> Embedded {
    Embedded::open(&folder.join("analytics.db")).await.unwrap()
}

#[tokio::test]
async fn memory_and_file_tell_the_same_in_the_order_of_arrival() {
    let folder = tempfile::tempdir().unwrap();
    let analytics = open(folder.path()).await;
    let mut sent = Vec::new();
    for (batch, size) in [1, 19, 20, 221, 1_000].into_iter().cycle().enumerate() {
        if sent.len() as u64 >= MANY {
            break;
        }
        let hits: Vec<_> = (0..size).map(|index| hit(index, batch as u64, &format!("/{batch}/{index}"))).collect();
        sent.extend(hits.clone());
        analytics.record(hits).await.unwrap();
    }
    let from_memory = analytics.hits_after(HitSeq(sent.len() as i64 - 100), 10_000).await.unwrap();
    assert_eq!(analytics.hits_after(HitSeq(sent.len() as i64), 10).await.unwrap(), []);
    analytics.close().await;
    let analytics = open(folder.path()).await;
    let from_file = analytics.hits_after(HitSeq(0), 100_000).await.unwrap();
    let stored: Vec<_> = from_file.iter().map(|(_, hit)| hit.as_ref().clone()).collect();
    assert_eq!(stored, sent);
    assert_eq!(from_file[sent.len() - 100..], from_memory);
    assert!(from_file.iter().zip(1..).all(|((seq, _), number)| seq.0 == number), "numbers have no gaps");
    // Half of it from the middle, whoever asks.
    assert_eq!(analytics.hits_after(HitSeq(10), 5).await.unwrap(), from_file[10..15]);
}

#[tokio::test]
async fn history_counts_for_what_is_usual_and_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let analytics = open(folder.path()).await;
    analytics.record(vec![hit(1, 0, "/live")]).await.unwrap();
    analytics.import((0..250).map(|visitor| hit(visitor, 300, "/old")).collect()).await.unwrap();
    analytics.import(vec![hit(900, 600, "/old")]).await.unwrap();
    analytics.record(vec![hit(2, 0, "/live")]).await.unwrap();
    for analytics in [analytics, open(folder.path()).await] {
        let followed = analytics.hits_after(HitSeq(0), 1_000).await.unwrap();
        assert_eq!(followed.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(analytics.last_seq().await.unwrap(), HitSeq(2));
        let width = Duration::from_secs(300);
        let windows = analytics.window_counts(SITE, START, START + 3 * width, width).await.unwrap();
        assert_eq!(windows.iter().map(|window| window.visitors).collect::<Vec<_>>(), [2, 250, 1]);
    }
}

#[tokio::test]
async fn visitors_are_counted_once_and_engagement_is_no_visit() {
    let folder = tempfile::tempdir().unwrap();
    let analytics = open(folder.path()).await;
    let engagement = Hit { name: ENGAGEMENT.to_owned(), ..hit(9, 10, "/a") };
    let other = Hit { site_id: SiteId(8), ..hit(5, 10, "/a") };
    analytics
        .record(vec![hit(1, 0, "/a"), hit(1, 10, "/a"), hit(2, 10, "/b"), hit(3, 10, "/a"), engagement, other])
        .await
        .unwrap();
    let until = START + Duration::from_secs(60);
    let pages = analytics.top(SITE, None, START, until, Dimension::Page, 3).await.unwrap();
    assert_eq!(pages, [("/a".to_owned(), 2), ("/b".to_owned(), 1)]);
    let sources = analytics.top(SITE, None, START, until, Dimension::Source, 1).await.unwrap();
    assert_eq!(sources, [("Hacker News".to_owned(), 3)]);
    assert_eq!(analytics.visits_since(START).await.unwrap().len(), 5);
    assert_eq!(analytics.first_hit_at(SITE).await.unwrap(), Some(START));
    analytics.delete_site(SITE).await.unwrap();
    assert_eq!(analytics.first_hit_at(SITE).await.unwrap(), None);
    assert!(analytics.first_hit_at(SiteId(8)).await.unwrap().is_some());
    analytics.prune(until).await.unwrap();
    assert_eq!(analytics.first_hit_at(SiteId(8)).await.unwrap(), None);
    // What was removed leaves its numbers behind: nothing is followed twice.
    assert_eq!(analytics.last_seq().await.unwrap(), HitSeq(6));
}

#[tokio::test]
async fn salts_are_kept_for_two_days_and_the_first_wins() {
    let folder = tempfile::tempdir().unwrap();
    let analytics = open(folder.path()).await;
    for (day, salt) in [(1, b"one"), (2, b"two"), (2, b"new"), (3, b"six")] {
        analytics.keep_salt(day, salt).await.unwrap();
    }
    assert_eq!(analytics.salts().await.unwrap(), [(3, b"six".to_vec()), (2, b"two".to_vec())]);
}
