-- Without a function in it: whoever inserts an event had to call it, and of a statement with a function in it SQLite believes
-- that it may fail halfway, and copies every page it touches to a file.
DROP INDEX events_listed_idx;
CREATE INDEX events_listed_idx ON events (webhook_id, id) WHERE lists IS NULL OR lists <> x'';
