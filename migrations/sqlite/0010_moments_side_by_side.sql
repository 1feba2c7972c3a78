-- What one step records lies side by side: by the moment first, which begins with what grows, instead of in a place of its
-- own for every trigger, each of which was one page more to write.
DROP INDEX events_moment_key;
CREATE UNIQUE INDEX events_moment_key ON events (moment, trigger_id);
