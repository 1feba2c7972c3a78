-- For several nodes over one database, which are never here: from when on events of the shard may be owed without a row.
ALTER TABLE shards ADD COLUMN unqueued_since INTEGER;
-- Whether the node looks for what another one has left there.
ALTER TABLE nodes ADD COLUMN takes_up INTEGER NOT NULL DEFAULT 0;
