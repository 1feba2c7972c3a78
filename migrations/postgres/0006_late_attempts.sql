-- When an attempt was written, where its event had been recorded a minute before or longer. What moved lately is found by
-- the ids of recent events, which begin with their time; this finds what moved of the older ones.
ALTER TABLE attempts ADD COLUMN late_at BIGINT;
CREATE INDEX attempts_late_idx ON attempts (webhook_id, late_at) WHERE late_at IS NOT NULL;
