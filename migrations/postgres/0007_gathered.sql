-- What triggers with a batch have counted and not told yet: a row for every look that counted something, or many of them folded
-- into one. They go with the event that tells them, in one transaction. No reference to the trigger, which would lock it with
-- every look; rows of triggers that are gone are removed by the janitor.
CREATE TABLE gathered (
    trigger_id  UUID   NOT NULL,
    -- Zero for a custom event.
    goal_id     BIGINT NOT NULL,
    -- Names the rows that were counted.
    moment      TEXT   NOT NULL,
    count       BIGINT NOT NULL,
    part        TEXT   NOT NULL,
    inserted_at BIGINT NOT NULL,
    PRIMARY KEY (trigger_id, goal_id, moment)
);
