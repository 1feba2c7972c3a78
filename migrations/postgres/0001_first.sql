-- Times are microseconds since the epoch (UTC). The SQLite tree has the same tables and columns.

CREATE TABLE accounts (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        TEXT    NOT NULL,
    status      TEXT    NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    inserted_at BIGINT NOT NULL,
    CONSTRAINT accounts_name_key UNIQUE (name)
);

CREATE TABLE users (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email         TEXT    NOT NULL,
    password_hash TEXT    NOT NULL,
    inserted_at   BIGINT NOT NULL,
    CONSTRAINT users_email_key UNIQUE (email)
);

CREATE TABLE memberships (
    account_id  BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id     BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role        TEXT    NOT NULL CHECK (role IN ('owner', 'admin', 'editor', 'viewer')),
    inserted_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, user_id)
);
CREATE INDEX memberships_user_idx ON memberships (user_id);

-- A session is found by the hash of its token; the token itself is only in the cookie.
CREATE TABLE sessions (
    token_hash  BYTEA    NOT NULL PRIMARY KEY,
    account_id  BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id     BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    inserted_at BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL
);
CREATE INDEX sessions_user_idx ON sessions (user_id);
CREATE INDEX sessions_age_idx ON sessions (expires_at);

CREATE TABLE api_keys (
    id           UUID    NOT NULL PRIMARY KEY,
    account_id   BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL,
    role         TEXT    NOT NULL CHECK (role IN ('owner', 'admin', 'editor', 'viewer')),
    prefix       TEXT    NOT NULL,
    key_hash     BYTEA    NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT,
    inserted_at  BIGINT NOT NULL,
    CONSTRAINT api_keys_hash_key UNIQUE (key_hash)
);
CREATE INDEX api_keys_account_idx ON api_keys (account_id);

CREATE TABLE sites (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id  BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    domain      TEXT    NOT NULL,
    timezone    TEXT    NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    CONSTRAINT sites_domain_key UNIQUE (domain)
);
CREATE INDEX sites_account_idx ON sites (account_id);

-- Plausible's shape: exactly one of event_name and page_path; scroll_threshold -1 means none.
CREATE TABLE goals (
    id               BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id       BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    site_id          BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    event_name       TEXT,
    page_path        TEXT,
    scroll_threshold INTEGER NOT NULL DEFAULT -1 CHECK (scroll_threshold BETWEEN -1 AND 100),
    display_name     TEXT    NOT NULL,
    custom_props     TEXT    NOT NULL DEFAULT '{}',
    currency         TEXT,
    inserted_at      BIGINT NOT NULL,
    CHECK ((event_name IS NULL) <> (page_path IS NULL)),
    CONSTRAINT goals_display_name_key UNIQUE (site_id, display_name)
);
CREATE UNIQUE INDEX goals_event_key ON goals (site_id, event_name, custom_props) WHERE event_name IS NOT NULL;
CREATE UNIQUE INDEX goals_page_key ON goals (site_id, page_path, scroll_threshold, custom_props) WHERE page_path IS NOT NULL;

CREATE TABLE webhooks (
    id                   UUID    NOT NULL PRIMARY KEY,
    account_id           BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    site_id              BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    name                 TEXT    NOT NULL,
    url                  TEXT    NOT NULL,
    format               TEXT    NOT NULL,
    headers              BYTEA,
    retry_schedule       TEXT,
    secret               BYTEA,
    previous_secret      BYTEA,
    previous_valid_until BIGINT,
    active               BOOLEAN NOT NULL,
    -- Since when it is watched for: what happened while it was paused is not made up for.
    live_since           BIGINT NOT NULL,
    -- Attempts a second at most; the operator's default when absent.
    rate_limit           INTEGER,
    -- First and last failure since the last success; the last two are written now and then, not with every attempt.
    failing_since        BIGINT,
    failed_at            BIGINT,
    succeeded_at         BIGINT,
    -- Warnings given since it began to fail.
    warnings             INTEGER NOT NULL DEFAULT 0,
    -- An open breaker: nothing is sent until then, and how long it stays shut the next time.
    parked_until         BIGINT,
    parked_ms            BIGINT,
    disabled_at          BIGINT,
    disabled_reason      TEXT,
    version              BIGINT NOT NULL,
    inserted_at          BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL
);
CREATE INDEX webhooks_account_idx ON webhooks (account_id);
CREATE INDEX webhooks_site_idx ON webhooks (site_id);
-- Few fail at any time; the keeper of their lives looks at those alone.
CREATE INDEX webhooks_failing_idx ON webhooks (failing_since) WHERE failing_since IS NOT NULL;

CREATE TABLE triggers (
    id          UUID    NOT NULL PRIMARY KEY,
    account_id  BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    site_id     BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    webhook_id  UUID    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    type        TEXT    NOT NULL,
    settings    TEXT    NOT NULL,
    version     BIGINT NOT NULL,
    inserted_at BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    CONSTRAINT triggers_settings_key UNIQUE (webhook_id, settings)
);
CREATE INDEX triggers_site_idx ON triggers (site_id);

-- What a trigger remembers between two steps. `fired` counts its events and fences concurrent writers.
CREATE TABLE trigger_states (
    trigger_id UUID    NOT NULL PRIMARY KEY REFERENCES triggers (id) ON DELETE CASCADE,
    account_id BIGINT NOT NULL,
    fired      BIGINT NOT NULL,
    state      TEXT    NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE site_profiles (
    site_id    BIGINT NOT NULL PRIMARY KEY REFERENCES sites (id) ON DELETE CASCADE,
    account_id BIGINT NOT NULL,
    profile    TEXT    NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE nodes (
    id         UUID    NOT NULL PRIMARY KEY,
    version    TEXT    NOT NULL,
    roles      TEXT    NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
);

-- Who sends for which part of the sites, and until when on the database's clock.
CREATE TABLE shards (
    shard       INTEGER NOT NULL PRIMARY KEY,
    node_id     UUID,
    epoch       BIGINT NOT NULL,
    lease_until BIGINT NOT NULL
);

-- How far a source of hits has been looked at. Moved from the value that was read and from no other, together with what
-- was noticed: of two that look at the same hits only one can say so.
CREATE TABLE watermarks (
    source TEXT    NOT NULL PRIMARY KEY,
    seq    BIGINT NOT NULL
);

-- Append-only: a trigger fired (or somebody asked for a test). The payload is the bytes that are signed and sent.
-- One partition a day, by the time ids begin with; the janitor makes them ahead and drops the old ones. No foreign keys on
-- these three: each would lock the row it points to with every insert. Who deletes a webhook deletes its rows.
CREATE TABLE events (
    id          UUID    NOT NULL,
    account_id  BIGINT NOT NULL,
    site_id     BIGINT NOT NULL,
    webhook_id  UUID    NOT NULL,
    trigger_id  UUID,
    type        TEXT    NOT NULL,
    moment      TEXT    NOT NULL,
    format      TEXT    NOT NULL,
    payload     BYTEA    NOT NULL,
    inserted_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
-- The delivery list of a webhook, newest first: ids sort by time.
CREATE INDEX events_webhook_idx ON events (webhook_id, id);
-- What belongs to no day that was made: a clock that is far off must not lose an event.
CREATE TABLE events_rest PARTITION OF events DEFAULT;
-- A moment once, whoever looked and however often. Days have an index like this each; across days the trigger's count of
-- fired events and the watermark see to it.
CREATE UNIQUE INDEX events_rest_moment_key ON events_rest (trigger_id, moment);

-- One narrow row per delivery still owed. Deleted when the delivery ends, so it stays small whatever the history. It is
-- vacuumed early and without pauses: dead rows in front of the index are what readers would pay for.
CREATE TABLE queue (
    event_id       UUID    NOT NULL PRIMARY KEY,
    account_id     BIGINT NOT NULL,
    webhook_id     UUID    NOT NULL,
    shard          INTEGER NOT NULL,
    -- 0: first attempts, 1: retries, 2: resends. Each is read by itself, so that none waits behind another.
    lane           INTEGER NOT NULL,
    -- Attempts made in this round; a resend begins a new one.
    attempt        INTEGER NOT NULL,
    -- Attempts that do not count against the schedule: of earlier rounds, and failures of our own.
    other_attempts INTEGER NOT NULL,
    due_at         BIGINT NOT NULL,
    -- After this moment it is given up. A resend never is.
    expires_at     BIGINT
) WITH (
    fillfactor = 80, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_threshold = 5000, autovacuum_analyze_scale_factor = 0.2
);
-- The owner of a shard reads the due rows of each webhook from the front of this index.
CREATE INDEX queue_due_idx ON queue (shard, webhook_id, lane, due_at, event_id);

-- Append-only: one HTTP exchange, or the reason why a delivery ended without one. In the partition of its event's day.
CREATE TABLE attempts (
    event_id         UUID    NOT NULL,
    number           INTEGER NOT NULL,
    account_id       BIGINT NOT NULL,
    webhook_id       UUID    NOT NULL,
    started_at       BIGINT NOT NULL,
    duration_ms      BIGINT NOT NULL,
    outcome          TEXT    NOT NULL,
    -- What to do about it; nothing after a success.
    advice           TEXT,
    response_code    INTEGER,
    response_headers TEXT,
    response_body    BYTEA,
    -- How the delivery ended with this attempt: success, failed, cancelled. NULL: it goes on.
    ended            TEXT    CHECK (ended IN ('success', 'failed', 'cancelled')),
    reason           TEXT,
    PRIMARY KEY (event_id, number)
) PARTITION BY RANGE (event_id);
CREATE TABLE attempts_rest PARTITION OF attempts DEFAULT;

-- A range of deliveries somebody wants sent once more: those between two ids that ended like that. They are put into the
-- queue a little at a time; up to `cursor` so far.
CREATE TABLE resends (
    id          UUID    NOT NULL PRIMARY KEY,
    account_id  BIGINT  NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    webhook_id  UUID    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    shard       INTEGER NOT NULL,
    ended       TEXT    NOT NULL,
    event_type  TEXT,
    from_at     BIGINT ,
    to_at       BIGINT ,
    status      TEXT    NOT NULL CHECK (status IN ('running', 'paused', 'cancelled', 'done')),
    -- How many there were when it was asked for, and how many were put into the queue.
    total       BIGINT  NOT NULL,
    queued      BIGINT  NOT NULL,
    cursor      UUID    NOT NULL,
    until       UUID    NOT NULL,
    inserted_at BIGINT  NOT NULL,
    updated_at  BIGINT  NOT NULL
);
CREATE INDEX resends_webhook_idx ON resends (webhook_id, id);
CREATE INDEX resends_running_idx ON resends (shard) WHERE status = 'running';
CREATE INDEX resends_age_idx ON resends (updated_at);

-- Webhooks that were deleted and whose deliveries the janitor still has to remove.
CREATE TABLE removals (
    webhook_id  UUID    NOT NULL PRIMARY KEY,
    inserted_at BIGINT NOT NULL
);

CREATE TABLE audit_log (
    id          UUID    NOT NULL PRIMARY KEY,
    account_id  BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    actor       TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    object      TEXT    NOT NULL,
    inserted_at BIGINT NOT NULL
);
CREATE INDEX audit_log_account_idx ON audit_log (account_id, id);

CREATE TABLE idempotency_keys (
    account_id   BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    key          TEXT    NOT NULL,
    request_hash BYTEA    NOT NULL,
    -- NULL while the first request is still being answered.
    status       INTEGER,
    response     BYTEA,
    inserted_at  BIGINT NOT NULL,
    PRIMARY KEY (account_id, key)
);
CREATE INDEX idempotency_keys_age_idx ON idempotency_keys (inserted_at);

-- Single facts about the installation: the configuration's version, the hash of the set-up token.
CREATE TABLE facts (
    name  TEXT    NOT NULL PRIMARY KEY,
    value TEXT    NOT NULL
);
INSERT INTO facts (name, value) VALUES ('catalog_version', '0');

INSERT INTO shards (shard, node_id, epoch, lease_until)
SELECT shard, NULL, 0, 0 FROM generate_series(0, 255) AS shard;
