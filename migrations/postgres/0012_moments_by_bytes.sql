-- Moments are compared byte by byte. As text in the order of a language each comparison costs many times as much, and what
-- that order is may change with the system's library, which would let a moment in twice. Days that are there keep the index
-- they have; a day that is made gets this one.
DROP INDEX events_rest_moment_key;
CREATE UNIQUE INDEX events_rest_moment_key ON events_rest (moment COLLATE "C", trigger_id);
