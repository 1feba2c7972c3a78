//! A step as one statement, for PostgreSQL: over a connection round trips are what costs, and made of several it has five.
//! It is recorded whole if everything is as the step knew it, which it nearly always is, and not at all otherwise: then it
//! is recorded in parts, which finds out what is different.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sqlx::PgPool;
use uuid::Uuid;

use super::Result;
use super::lists::lists;
use super::outbox::{Fired, Step, Watermark, event_columns, events_and_owed, put_in_order};
use super::put_off::{PutOff, Putting};
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
    pub async fn record(&self, pool: &PgPool, put_off: &Arc<PutOff>) -> Result<Option<Vec<EventId>>> {
        // Webhooks are locked before triggers and both in the order of their ids, as everywhere ([`super::outbox`]).
        const POSTGRES: &str = concat!(
            "
            WITH live AS MATERIALIZED (
                SELECT id
                FROM webhooks
                WHERE id = ANY ($19) AND active AND disabled_at IS NULL
                ORDER BY id
                FOR KEY SHARE
            ),
            versions AS MATERIALIZED (
                SELECT id, version
                FROM triggers
                WHERE id = ANY ($20) AND (SELECT count(*) FROM live) = cardinality($19::uuid[])
                ORDER BY id
                FOR SHARE OF triggers
            ),
            /* For what is put off: whoever takes these shards over sees all of it. */
            lasting AS MATERIALIZED (
                SELECT shards.shard
                FROM unnest($26::integer[], $27::bigint[]) AS lease (shard, epoch)
                JOIN shards ON shards.shard = lease.shard AND shards.epoch = lease.epoch
                WHERE shards.node_id = $28 AND shards.unqueued_since <= $29
                ORDER BY shards.shard
                FOR SHARE OF shards
            ),
            moved AS (
                UPDATE watermarks
                SET seq = $24
                WHERE source = $22 AND seq = $23
                    AND (SELECT value FROM facts WHERE name = 'catalog_version') = $25
                    AND (SELECT count(*) FROM live) = cardinality($19::uuid[])
                    AND (SELECT count(*) FROM lasting) = cardinality($26::integer[])
                    /* Both in the order of ids, so there is one for each of those asked for. */
                    AND (SELECT coalesce(array_agg(version ORDER BY id), '{}') FROM versions) = $21::bigint[]
                RETURNING 1
            ),
            ",
            events_and_owed!(""),
            "
            /* Divides by zero, and so takes all of it back, if anything is not as it was: it is recorded in parts then. */
            SELECT 1 / (SELECT count(*) FROM moved)"
        );
        let putting = Putting::of(put_off, &self.fired, self.watermark);
        let is_put_off = |fired: &Fired| putting.as_ref().is_some_and(|putting| putting.puts_off(fired));
        let queued: Vec<_> = self.to_be_sent.iter().copied().filter(|fired| !is_put_off(fired)).collect();
        let leases = putting.as_ref().map_or(&[][..], |putting| &putting.leases);
        let recorded = sqlx::query_scalar_with::<_, i64, _>(
            POSTGRES,
            event_columns(&self.fired, is_put_off, &lists(&self.fired), &queued)?,
        )
        .bind(self.webhooks.iter().copied().collect::<Vec<_>>())
        .bind(self.versions.keys().copied().collect::<Vec<_>>())
        .bind(self.versions.values().copied().collect::<Vec<_>>())
        .bind(&self.watermark.source)
        .bind(self.watermark.from)
        .bind(self.watermark.to)
        .bind(self.watermark.catalog_version.to_string())
        .bind(leases.iter().map(|lease| lease.shard).collect::<Vec<_>>())
        .bind(leases.iter().map(|lease| lease.epoch).collect::<Vec<_>>())
        .bind(putting.as_ref().map(|putting| putting.node))
        .bind(putting.as_ref().map(|putting| putting.first))
        .fetch_one(pool)
        .await;
        match recorded {
            Ok(_) => {
                if let Some(putting) = putting {
                    putting.remember(self.to_be_sent.iter().copied());
                }
                Ok(Some(self.to_be_sent.iter().map(|fired| fired.event.id).collect()))
            }
            // What the database refuses it has taken back. Of no answer nothing is known, nor of one that it ends with.
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| !code.starts_with("57")) => {
                if let Some(putting) = putting {
                    putting.forget();
                }
                let not_as_known = error.code().is_some_and(|code| NOT_AS_KNOWN.contains(&code.as_ref()));
                if not_as_known { Ok(None) } else { Err(sqlx::Error::Database(error).into()) }
            }
            Err(error) => Err(error.into()),
        }
    }
}
