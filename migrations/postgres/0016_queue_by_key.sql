-- The planner takes a table that was empty when it was last vacuumed, as the queue is after a quiet night, for one that is: to
-- look up a delivery by its id in the index of its lane, where the id comes last, would cost no more than by its key, and it
-- did so while the table filled, reading all of the index each time. So only who asks by shard may use that index. No shard is
-- ever null; that is proven by any comparison of it.
DROP INDEX queue_due_idx;
CREATE INDEX queue_due_idx ON queue (shard, webhook_id, lane, due_at, event_id) WHERE shard IS NOT NULL;
