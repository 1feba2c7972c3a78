-- Traffic that others write to an analytics store is asked for again and again; this is what was made of it.

-- Up to when a shard's traffic was looked at. NULL: never.
ALTER TABLE shards ADD COLUMN looked_until INTEGER;

-- Rows that were reported, as often as they were there: they have no id, so they are known by a hash of what is in them and
-- by their second. Kept as long as they may be met again.
CREATE TABLE reported (
    shard    INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    identity INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (shard, at, identity)
) STRICT, WITHOUT ROWID;

-- Spans nobody looked at: the analytics store, or all of us, were away for longer than is made up for.
CREATE TABLE gaps (
    shard    INTEGER NOT NULL,
    from_at  INTEGER NOT NULL,
    until_at INTEGER NOT NULL,
    PRIMARY KEY (shard, from_at)
) STRICT, WITHOUT ROWID;
