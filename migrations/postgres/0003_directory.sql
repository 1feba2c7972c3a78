-- What another directory calls an account that comes from there, such as `team:12`.
ALTER TABLE accounts ADD COLUMN external_id TEXT;
ALTER TABLE accounts ADD CONSTRAINT accounts_external_id_key UNIQUE (external_id);

-- The same of people who come from there, such as `user:7`. They have no password of ours.
ALTER TABLE users ADD COLUMN external_id TEXT;
ALTER TABLE users ADD CONSTRAINT users_external_id_key UNIQUE (external_id);
