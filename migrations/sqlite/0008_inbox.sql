-- What the built-in inbox took lately, as a receiver would have seen it: a few requests of each webhook, for a day.
CREATE TABLE inbox (
    id          BLOB    NOT NULL PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    webhook_id  BLOB    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id    BLOB    NOT NULL,
    verdict     TEXT    NOT NULL CHECK (verdict IN ('verified', 'unsigned', 'mismatch')),
    -- A list of pairs, in the order they were sent.
    headers     TEXT    NOT NULL,
    body        BLOB    NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;
CREATE INDEX inbox_webhook_idx ON inbox (webhook_id, id);
CREATE INDEX inbox_account_idx ON inbox (account_id);
