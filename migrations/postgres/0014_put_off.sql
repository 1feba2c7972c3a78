-- Rows of the queue are put off here as well since this version (`events.owed_until`), by a node that works for the shard:
-- from which moment on an event of the shard may be owed without a row, by the clock of the node that recorded it, which the
-- beginning of the event's id has too. Whoever takes the shard up looks from there on. NULL: nothing is put off.
ALTER TABLE shards ADD COLUMN unqueued_since BIGINT;
-- Whether the node does so. Rows are put off only while every node that sends would find what another has left.
ALTER TABLE nodes ADD COLUMN takes_up BOOLEAN NOT NULL DEFAULT FALSE;
