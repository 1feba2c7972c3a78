-- The list of a webhook's deliveries has an entry for what a step recorded for it, instead of one for every event: the last of
-- them has the ids of the others, sixteen bytes each. NULL: the event is in the list by itself, as all were before. Empty:
-- another has it.
ALTER TABLE events ADD COLUMN lists BLOB;
DROP INDEX events_webhook_idx;
CREATE INDEX events_listed_idx ON events (webhook_id, id) WHERE lists IS NULL OR length(lists) > 0;
