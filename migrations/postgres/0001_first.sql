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
    failing_since        BIGINT,
    disabled_at          BIGINT,
    disabled_reason      TEXT,
    version              BIGINT NOT NULL,
    inserted_at          BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL
);
CREATE INDEX webhooks_account_idx ON webhooks (account_id);
CREATE INDEX webhooks_site_idx ON webhooks (site_id);

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

-- Who works for which part of the sites. `watermark` is the last hit whose completions are reported.
CREATE TABLE shards (
    shard       INTEGER NOT NULL PRIMARY KEY,
    node_id     UUID,
    epoch       BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    watermark   BIGINT NOT NULL
);

-- Append-only: a trigger fired (or somebody asked for a test). The payload is the bytes that are signed and sent.
CREATE TABLE events (
    id          UUID    NOT NULL PRIMARY KEY,
    account_id  BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    site_id     BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    webhook_id  UUID    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    trigger_id  UUID,
    type        TEXT    NOT NULL,
    moment      TEXT    NOT NULL,
    format      TEXT    NOT NULL,
    payload     BYTEA    NOT NULL,
    inserted_at BIGINT NOT NULL,
    -- One row per moment, whoever looked and however often.
    CONSTRAINT events_moment_key UNIQUE (trigger_id, moment)
);
-- The delivery list of a webhook, newest first: ids sort by time.
CREATE INDEX events_webhook_idx ON events (webhook_id, id);
CREATE INDEX events_site_idx ON events (site_id);

-- One narrow row per delivery still owed. Deleted when the delivery ends, so it stays small whatever the history.
CREATE TABLE queue (
    event_id         UUID    NOT NULL PRIMARY KEY REFERENCES events (id) ON DELETE CASCADE,
    account_id       BIGINT NOT NULL,
    webhook_id       UUID    NOT NULL,
    shard            INTEGER NOT NULL,
    -- Attempts made in this round; a resend begins a new one.
    attempt          INTEGER NOT NULL,
    -- Attempts that do not count against the schedule: of earlier rounds, and failures of our own.
    other_attempts   INTEGER NOT NULL,
    due_at           BIGINT NOT NULL,
    -- After this moment it is given up. A resend never is.
    expires_at       BIGINT
);
-- The owner of a shard reads the due rows of each webhook from the front of this index.
CREATE INDEX queue_due_idx ON queue (shard, webhook_id, due_at, event_id);

-- Append-only: one HTTP exchange, or the reason why a delivery ended without one.
CREATE TABLE attempts (
    event_id         UUID    NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    number           INTEGER NOT NULL,
    account_id       BIGINT NOT NULL,
    webhook_id       UUID    NOT NULL,
    started_at       BIGINT NOT NULL,
    duration_ms      BIGINT NOT NULL,
    outcome          TEXT    NOT NULL,
    advice           TEXT    NOT NULL,
    response_code    INTEGER,
    response_headers TEXT,
    response_body    BYTEA,
    -- How the delivery ended with this attempt: success, failed, cancelled. NULL: it goes on.
    ended            TEXT    CHECK (ended IN ('success', 'failed', 'cancelled')),
    reason           TEXT,
    PRIMARY KEY (event_id, number)
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

INSERT INTO shards (shard, node_id, epoch, lease_until, watermark)
SELECT shard, NULL, 0, 0, 0 FROM generate_series(0, 255) AS shard;
