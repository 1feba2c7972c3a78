-- Traffic that others write to an analytics store is asked for again and again; this is what was made of it.

-- Up to when a shard's traffic was looked at. NULL: never.
ALTER TABLE shards ADD COLUMN looked_until BIGINT;

-- Rows that were reported, as often as they were there: they have no id, so they are known by a hash of what is in them and
-- by their second. Kept as long as they may be met again.
CREATE TABLE reported (
    shard    INTEGER NOT NULL,
    at       BIGINT  NOT NULL,
    identity BIGINT  NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (shard, at, identity)
);

-- Spans nobody looked at: the analytics store, or all of us, were away for longer than is made up for.
CREATE TABLE gaps (
    shard    INTEGER NOT NULL,
    from_at  BIGINT  NOT NULL,
    until_at BIGINT  NOT NULL,
    PRIMARY KEY (shard, from_at)
);
