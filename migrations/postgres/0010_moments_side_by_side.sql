-- What one step records lies side by side: by the moment first, which begins with what grows, instead of in a place of its
-- own for every trigger, each of which was one page more to write. Days that are there keep the index they have; a day that
-- is made gets this one.
DROP INDEX events_rest_moment_key;
CREATE UNIQUE INDEX events_rest_moment_key ON events_rest (moment, trigger_id);
