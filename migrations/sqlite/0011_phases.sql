-- When each phase of an attempt was over, all of them in one number: of the five a kept connection has two, so that columns of
-- their own would be NULLs and arrays to bind with every delivery. One number takes a byte or two for most rows of SQLite and
-- eight of PostgreSQL, where it needs no text to be made. Bit 0 says that the head of an answer came; then, from the lowest
-- bits, 15 each for the wait for that head, TLS, the connection and the look-up of the name: milliseconds since the attempt
-- began, and one; zero is a phase that was not gone through. What is left of `duration_ms` is the body. In SQL, after how many
-- milliseconds the head came: `(phases >> 1 & 32767) - 1`. NULL: nobody took the time, as before this column was there.
ALTER TABLE attempts ADD COLUMN phases INTEGER;
