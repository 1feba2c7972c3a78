-- The whole address of a webhook, sealed, where there is more behind its host: there chat rooms and others have a token. Then
-- `url` has the host alone; what was written before stays as it is until it is edited, or `rotate-key` seals it.
ALTER TABLE webhooks ADD COLUMN sealed_url BYTEA;
