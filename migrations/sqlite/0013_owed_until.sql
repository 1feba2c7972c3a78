-- Until when the first attempt at an event is owed although the queue has no row for it: microseconds, the largest number
-- for one that does not expire. It is owed while it has no attempt. NULL: it has had a row, or is not owed.
ALTER TABLE events ADD COLUMN owed_until INTEGER;
