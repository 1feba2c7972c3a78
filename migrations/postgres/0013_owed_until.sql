-- Until when the first attempt at an event is owed although the queue has no row for it. Never set here: any node may be the
-- one to send, so every delivery has a row. The embedded database puts rows off, and one text asks both.
ALTER TABLE events ADD COLUMN owed_until BIGINT;
