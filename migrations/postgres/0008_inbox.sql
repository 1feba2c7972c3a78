-- What the built-in inbox took lately, as a receiver would have seen it: a few requests of each webhook, for a day.
CREATE TABLE inbox (
    id          UUID    NOT NULL PRIMARY KEY,
    account_id  BIGINT  NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    webhook_id  UUID    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id    UUID    NOT NULL,
    verdict     TEXT    NOT NULL CHECK (verdict IN ('verified', 'unsigned', 'mismatch')),
    -- A list of pairs, in the order they were sent.
    headers     TEXT    NOT NULL,
    body        BYTEA   NOT NULL,
    received_at BIGINT  NOT NULL
);
CREATE INDEX inbox_webhook_idx ON inbox (webhook_id, id);
CREATE INDEX inbox_account_idx ON inbox (account_id);
