-- Times are microseconds since the epoch (UTC). The PostgreSQL tree has the same tables and columns.

CREATE TABLE accounts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT    NOT NULL,
    status      TEXT    NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    inserted_at INTEGER NOT NULL,
    CONSTRAINT accounts_name_key UNIQUE (name)
) STRICT;

CREATE TABLE users (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    email         TEXT    NOT NULL,
    password_hash TEXT    NOT NULL,
    inserted_at   INTEGER NOT NULL,
    CONSTRAINT users_email_key UNIQUE (email)
) STRICT;

CREATE TABLE memberships (
    account_id  INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id     INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role        TEXT    NOT NULL CHECK (role IN ('owner', 'admin', 'editor', 'viewer')),
    inserted_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, user_id)
) STRICT;
CREATE INDEX memberships_user_idx ON memberships (user_id);

-- A session is found by the hash of its token; the token itself is only in the cookie.
CREATE TABLE sessions (
    token_hash  BLOB    NOT NULL PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    user_id     INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    inserted_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_user_idx ON sessions (user_id);
CREATE INDEX sessions_age_idx ON sessions (expires_at);

CREATE TABLE api_keys (
    id           BLOB    NOT NULL PRIMARY KEY,
    account_id   INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL,
    role         TEXT    NOT NULL CHECK (role IN ('owner', 'admin', 'editor', 'viewer')),
    prefix       TEXT    NOT NULL,
    key_hash     BLOB    NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    inserted_at  INTEGER NOT NULL,
    CONSTRAINT api_keys_hash_key UNIQUE (key_hash)
) STRICT;
CREATE INDEX api_keys_account_idx ON api_keys (account_id);

CREATE TABLE sites (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id  INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    domain      TEXT    NOT NULL,
    timezone    TEXT    NOT NULL,
    inserted_at INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    CONSTRAINT sites_domain_key UNIQUE (domain)
) STRICT;
CREATE INDEX sites_account_idx ON sites (account_id);

-- Plausible's shape: exactly one of event_name and page_path; scroll_threshold -1 means none.
CREATE TABLE goals (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id       INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    site_id          INTEGER NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    event_name       TEXT,
    page_path        TEXT,
    scroll_threshold INTEGER NOT NULL DEFAULT -1 CHECK (scroll_threshold BETWEEN -1 AND 100),
    display_name     TEXT    NOT NULL,
    custom_props     TEXT    NOT NULL DEFAULT '{}',
    currency         TEXT,
    inserted_at      INTEGER NOT NULL,
    CHECK ((event_name IS NULL) <> (page_path IS NULL)),
    CONSTRAINT goals_display_name_key UNIQUE (site_id, display_name)
) STRICT;
CREATE UNIQUE INDEX goals_event_key ON goals (site_id, event_name, custom_props) WHERE event_name IS NOT NULL;
CREATE UNIQUE INDEX goals_page_key ON goals (site_id, page_path, scroll_threshold, custom_props) WHERE page_path IS NOT NULL;

CREATE TABLE webhooks (
    id                   BLOB    NOT NULL PRIMARY KEY,
    account_id           INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    site_id              INTEGER NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    name                 TEXT    NOT NULL,
    url                  TEXT    NOT NULL,
    format               TEXT    NOT NULL,
    headers              BLOB,
    retry_schedule       TEXT,
    secret               BLOB,
    previous_secret      BLOB,
    previous_valid_until INTEGER,
    active               INTEGER NOT NULL CHECK (active IN (0, 1)),
    -- Since when it is watched for: what happened while it was paused is not made up for.
    live_since           INTEGER NOT NULL,
    -- Attempts a second at most; the operator's default when absent.
    rate_limit           INTEGER,
    -- First and last failure since the last success; the last two are written now and then, not with every attempt.
    failing_since        INTEGER,
    failed_at            INTEGER,
    succeeded_at         INTEGER,
    -- Warnings given since it began to fail.
    warnings             INTEGER NOT NULL DEFAULT 0,
    -- An open breaker: nothing is sent until then, and how long it stays shut the next time.
    parked_until         INTEGER,
    parked_ms            INTEGER,
    disabled_at          INTEGER,
    disabled_reason      TEXT,
    version              INTEGER NOT NULL,
    inserted_at          INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL
) STRICT;
CREATE INDEX webhooks_account_idx ON webhooks (account_id);
CREATE INDEX webhooks_site_idx ON webhooks (site_id);
-- Few fail at any time; the keeper of their lives looks at those alone.
CREATE INDEX webhooks_failing_idx ON webhooks (failing_since) WHERE failing_since IS NOT NULL;

CREATE TABLE triggers (
    id          BLOB    NOT NULL PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    site_id     INTEGER NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    webhook_id  BLOB    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    type        TEXT    NOT NULL,
    settings    TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    inserted_at INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    CONSTRAINT triggers_settings_key UNIQUE (webhook_id, settings)
) STRICT;
CREATE INDEX triggers_site_idx ON triggers (site_id);

-- What a trigger remembers between two steps. `fired` counts its events and fences concurrent writers.
CREATE TABLE trigger_states (
    trigger_id BLOB    NOT NULL PRIMARY KEY REFERENCES triggers (id) ON DELETE CASCADE,
    account_id INTEGER NOT NULL,
    fired      INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE site_profiles (
    site_id    INTEGER NOT NULL PRIMARY KEY REFERENCES sites (id) ON DELETE CASCADE,
    account_id INTEGER NOT NULL,
    profile    TEXT    NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE nodes (
    id         BLOB    NOT NULL PRIMARY KEY,
    version    TEXT    NOT NULL,
    roles      TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL
) STRICT;

-- Who sends for which part of the sites, and until when on the database's clock.
CREATE TABLE shards (
    shard       INTEGER NOT NULL PRIMARY KEY,
    node_id     BLOB,
    epoch       INTEGER NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT;

-- How far a source of hits has been looked at. Moved from the value that was read and from no other, together with what
-- was noticed: of two that look at the same hits only one can say so.
CREATE TABLE watermarks (
    source TEXT    NOT NULL PRIMARY KEY,
    seq    INTEGER NOT NULL
) STRICT;

-- Append-only: a trigger fired (or somebody asked for a test). The payload is the bytes that are signed and sent. No
-- foreign keys on these three: each would be looked up with every insert. Who deletes a webhook deletes its rows.
CREATE TABLE events (
    id          BLOB    NOT NULL PRIMARY KEY,
    account_id  INTEGER NOT NULL,
    site_id     INTEGER NOT NULL,
    webhook_id  BLOB    NOT NULL,
    trigger_id  BLOB,
    type        TEXT    NOT NULL,
    moment      TEXT    NOT NULL,
    format      TEXT    NOT NULL,
    payload     BLOB    NOT NULL,
    inserted_at INTEGER NOT NULL
) STRICT;
-- A moment once, whoever looked and however often.
CREATE UNIQUE INDEX events_moment_key ON events (trigger_id, moment);
-- The delivery list of a webhook, newest first: ids sort by time.
CREATE INDEX events_webhook_idx ON events (webhook_id, id);

-- One narrow row per delivery still owed. Deleted when the delivery ends, so it stays small whatever the history.
CREATE TABLE queue (
    event_id       BLOB    NOT NULL UNIQUE,
    account_id     INTEGER NOT NULL,
    webhook_id     BLOB    NOT NULL,
    shard          INTEGER NOT NULL,
    -- 0: first attempts, 1: retries, 2: resends. Each is read by itself, so that none waits behind another.
    lane           INTEGER NOT NULL,
    -- Attempts made in this round; a resend begins a new one.
    attempt        INTEGER NOT NULL,
    -- Attempts that do not count against the schedule: of earlier rounds, and failures of our own.
    other_attempts INTEGER NOT NULL,
    due_at         INTEGER NOT NULL,
    -- After this moment it is given up. A resend never is.
    expires_at     INTEGER,
    -- The owner of a shard reads the due rows of each webhook in this order, and that is how they lie.
    PRIMARY KEY (shard, webhook_id, lane, due_at, event_id)
) STRICT, WITHOUT ROWID;

-- Append-only: one HTTP exchange, or the reason why a delivery ended without one.
CREATE TABLE attempts (
    event_id         BLOB    NOT NULL,
    number           INTEGER NOT NULL,
    account_id       INTEGER NOT NULL,
    webhook_id       BLOB    NOT NULL,
    started_at       INTEGER NOT NULL,
    duration_ms      INTEGER NOT NULL,
    outcome          TEXT    NOT NULL,
    -- What to do about it; nothing after a success.
    advice           TEXT,
    response_code    INTEGER,
    response_headers TEXT,
    response_body    BLOB,
    -- How the delivery ended with this attempt: success, failed, cancelled. NULL: it goes on.
    ended            TEXT    CHECK (ended IN ('success', 'failed', 'cancelled')),
    reason           TEXT,
    PRIMARY KEY (event_id, number)
) STRICT, WITHOUT ROWID;

-- A range of deliveries somebody wants sent once more: those between two ids that ended like that. They are put into the
-- queue a little at a time; up to `cursor` so far.
CREATE TABLE resends (
    id          BLOB    NOT NULL PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    webhook_id  BLOB    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    shard       INTEGER NOT NULL,
    ended       TEXT    NOT NULL,
    event_type  TEXT,
    from_at     INTEGER,
    to_at       INTEGER,
    status      TEXT    NOT NULL CHECK (status IN ('running', 'paused', 'cancelled', 'done')),
    -- How many there were when it was asked for, and how many were put into the queue.
    total       INTEGER NOT NULL,
    queued      INTEGER NOT NULL,
    cursor      BLOB    NOT NULL,
    until       BLOB    NOT NULL,
    inserted_at INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX resends_webhook_idx ON resends (webhook_id, id);
CREATE INDEX resends_running_idx ON resends (shard) WHERE status = 'running';
CREATE INDEX resends_age_idx ON resends (updated_at);

-- Webhooks that were deleted and whose deliveries the janitor still has to remove.
CREATE TABLE removals (
    webhook_id  BLOB    NOT NULL PRIMARY KEY,
    inserted_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit_log (
    id          BLOB    NOT NULL PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    actor       TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    object      TEXT    NOT NULL,
    inserted_at INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_log_account_idx ON audit_log (account_id, id);

CREATE TABLE idempotency_keys (
    account_id   INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    key          TEXT    NOT NULL,
    request_hash BLOB    NOT NULL,
    -- NULL while the first request is still being answered.
    status       INTEGER,
    response     BLOB,
    inserted_at  INTEGER NOT NULL,
    PRIMARY KEY (account_id, key)
) STRICT;
CREATE INDEX idempotency_keys_age_idx ON idempotency_keys (inserted_at);

-- Single facts about the installation: the configuration's version, the hash of the set-up token.
CREATE TABLE facts (
    name  TEXT    NOT NULL PRIMARY KEY,
    value TEXT    NOT NULL
) STRICT;
INSERT INTO facts (name, value) VALUES ('catalog_version', '0');

WITH RECURSIVE numbers (shard) AS (SELECT 0 UNION ALL SELECT shard + 1 FROM numbers WHERE shard < 255)
INSERT INTO shards (shard, node_id, epoch, lease_until) SELECT shard, NULL, 0, 0 FROM numbers;
