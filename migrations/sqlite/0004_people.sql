-- Who was asked to join an account. The link holds a token; only its hash is here.
CREATE TABLE invitations (
    id          BLOB NOT NULL PRIMARY KEY,
    account_id  INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    email       TEXT NOT NULL,
    role        TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'editor', 'viewer')),
    token_hash  BLOB NOT NULL,
    invited_by  TEXT NOT NULL,
    expires_at  INTEGER NOT NULL,
    inserted_at INTEGER NOT NULL,
    CONSTRAINT invitations_token_key UNIQUE (token_hash),
    CONSTRAINT invitations_email_key UNIQUE (account_id, email)
) STRICT;
CREATE INDEX invitations_age_idx ON invitations (expires_at);

-- A session nobody used for a while ends; 0 is one that a node of an earlier version opened. The browser, as it calls
-- itself, is for people to recognise their own.
ALTER TABLE sessions ADD COLUMN last_used_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';

-- A key may be for one site only, and it is known who made it.
ALTER TABLE api_keys ADD COLUMN site_id INTEGER REFERENCES sites (id) ON DELETE CASCADE;
ALTER TABLE api_keys ADD COLUMN created_by TEXT NOT NULL DEFAULT '';
CREATE INDEX api_keys_site_idx ON api_keys (site_id);

-- What was changed into what, as JSON without anything secret; the network a request came from, not the address; and the
-- request's id.
ALTER TABLE audit_log ADD COLUMN detail TEXT NOT NULL DEFAULT '{}';
ALTER TABLE audit_log ADD COLUMN network TEXT NOT NULL DEFAULT '';
ALTER TABLE audit_log ADD COLUMN request_id BLOB;
