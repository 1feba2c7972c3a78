//! A step as one statement, for PostgreSQL: over a connection round trips are what costs, and made of several it has five.
//! It is recorded whole if everything is as the step knew it, which it nearly always is, and not at all otherwise: then it
//! is recorded in parts, which finds out what is different.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgPool;
use uuid::Uuid;

use super::Result;
use super::outbox::{Fired, Step, Watermark, event_columns, events_and_owed, put_in_order};
use crate::domain::ids::EventId;

/// What PostgreSQL answers to a division by zero, and to a moment that is recorded already (SQLSTATE).
const NOT_AS_KNOWN: [&str; 2] = ["22012", "23505"];

/// A step that records events and moves the watermark, and nothing else.
pub(super) struct Whole<'a> {
    fired: Vec<&'a Fired>,
    /// In the order in which they will lie in the queue.
    to_be_sent: Vec<&'a Fired>,
    webhooks: BTreeSet<Uuid>,
    /// What the step took triggers for.
    versions: BTreeMap<Uuid, i64>,
    watermark: &'a Watermark,
}

impl<'a> Whole<'a> {
    /// Nothing if the step is more than that.
    pub fn of(step: &'a Step) -> Option<Self> {
        let watermark = step.watermark.as_ref().filter(|_| !step.fired.is_empty() && !step.moves_memory())?;
        let mut versions = BTreeMap::new();
        for fired in &step.fired {
            let Some(version) = fired.trigger_version else { continue };
            if versions.insert(fired.event.trigger_id?.0, version).is_some_and(|other| other != version) {
                return None;
            }
        }
        let mut fired: Vec<_> = step.fired.iter().collect();
        let to_be_sent = put_in_order(&mut fired);
        let webhooks = fired.iter().map(|fired| fired.event.webhook_id.0).collect();
        Some(Self { fired, to_be_sent, webhooks, versions, watermark })
    }

    /// Answers which events are owed, or nothing if something is not as the step knew it: nothing was recorded then.
    ///
    /// The configuration is looked at as it was when the statement began. That is late enough: the hits were read before.
    pub async fn record(&self, pool: &PgPool) -> Result<Option<Vec<EventId>>> {
        // Webhooks are locked before triggers and both in the order of their ids, as everywhere ([`super::outbox`]).
        const POSTGRES: &str = concat!(
            "
            WITH live AS MATERIALIZED (
                SELECT id
                FROM webhooks
                WHERE id = ANY ($17) AND active AND disabled_at IS NULL
                ORDER BY id
                FOR KEY SHARE
            ),
            versions AS MATERIALIZED (
                SELECT id, version
                FROM triggers
                WHERE id = ANY ($18) AND (SELECT count(*) FROM live) = cardinality($17::uuid[])
                ORDER BY id
                FOR SHARE OF triggers
            ),
            moved AS (
                UPDATE watermarks
                SET seq = $22
                WHERE source = $20 AND seq = $21
                    AND (SELECT value FROM facts WHERE name = 'catalog_version') = $23
                    AND (SELECT count(*) FROM live) = cardinality($17::uuid[])
                    /* Both in the order of ids, so there is one for each of those asked for. */
                    AND (SELECT coalesce(array_agg(version ORDER BY id), '{}') FROM versions) = $19::bigint[]
                RETURNING 1
            ),
            ",
            events_and_owed!(""),
            "
            /* Divides by zero, and so takes all of it back, if anything is not as it was: it is recorded in parts then. */
            SELECT 1 / (SELECT count(*) FROM moved)"
        );
        let recorded = sqlx::query_scalar_with::<_, i64, _>(POSTGRES, event_columns(&self.fired, &self.to_be_sent)?)
            .bind(self.webhooks.iter().copied().collect::<Vec<_>>())
            .bind(self.versions.keys().copied().collect::<Vec<_>>())
            .bind(self.versions.values().copied().collect::<Vec<_>>())
            .bind(&self.watermark.source)
            .bind(self.watermark.from)
            .bind(self.watermark.to)
            .bind(self.watermark.catalog_version.to_string())
            .fetch_one(pool)
            .await;
        match recorded {
            Ok(_) => Ok(Some(self.to_be_sent.iter().map(|fired| fired.event.id).collect())),
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| NOT_AS_KNOWN.contains(&code.as_ref())) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}
