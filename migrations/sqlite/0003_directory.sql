-- What another directory calls an account that comes from there, such as `team:12`.
ALTER TABLE accounts ADD COLUMN external_id TEXT;
CREATE UNIQUE INDEX accounts_external_id_key ON accounts (external_id);

-- The same of people who come from there, such as `user:7`. They have no password of ours.
ALTER TABLE users ADD COLUMN external_id TEXT;
CREATE UNIQUE INDEX users_external_id_key ON users (external_id);
