-- A role for Pulsehook in Plausible's PostgreSQL that reads what it needs and nothing else.
--
-- Run it in Plausible's database as its owner, before the first start and again after every upgrade of Plausible (a new
-- version may bring columns that did not exist before; those that do not exist are passed over):
--
--     psql -d plausible_db -f postgres-reader.sql
--     psql -d plausible_db -c "ALTER ROLE pulsehook_reader PASSWORD 'a long random one'"
--
-- Then set plausible_database_url to postgres://pulsehook_reader:…@host/plausible_db.
--
-- Left out on purpose: users.password_hash, users.email and second factors, subscriptions and everything about billing,
-- salts, and the rest of each table. Nothing is granted that writes.

DO $$
DECLARE
    wanted record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pulsehook_reader') THEN
        CREATE ROLE pulsehook_reader LOGIN;
    END IF;
    ALTER ROLE pulsehook_reader SET default_transaction_read_only = on;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO pulsehook_reader', current_database());
    GRANT USAGE ON SCHEMA public TO pulsehook_reader;

    FOR wanted IN
        SELECT allowed.table_name, string_agg(quote_ident(attribute.attname), ', ') AS columns
        FROM (VALUES
            -- Which sites there are and whose they are; locked: by billing, in versions without teams.
            ('sites', '{id, domain, timezone, team_id, consolidated, locked, inserted_at}'::text[]),
            -- What counts as a completion.
            ('goals', '{id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency,
                inserted_at}'),
            -- Accounts, and whether anything is to be noticed for them.
            ('teams', '{id, name, locked, accept_traffic_until}'),
            ('team_memberships', '{team_id, user_id, role, is_autocreated}'),
            -- The same in versions without teams. If people are to sign in here with the password they have in Plausible, add
            -- email, password_hash and totp_enabled to users; otherwise nobody needs them.
            ('users', '{id, name, accept_traffic_until}'),
            ('site_memberships', '{site_id, user_id, role}'),
            -- Tokens of the Plugins API work here as well: their hashes are compared.
            ('plugins_api_tokens', '{id, site_id, token_hash}'),
            -- So do API keys, if plausible_secret_key_base is set. Leave this line out otherwise.
            ('api_keys', '{id, user_id, team_id, key_hash}')
        ) AS allowed (table_name, column_names)
        JOIN pg_class AS class
            ON class.relname = allowed.table_name AND class.relnamespace = 'public'::regnamespace
        JOIN pg_attribute AS attribute
            ON attribute.attrelid = class.oid
            AND attribute.attname = ANY (allowed.column_names)
            AND attribute.attnum > 0
            AND NOT attribute.attisdropped
        GROUP BY allowed.table_name
    LOOP
        EXECUTE format('GRANT SELECT (%s) ON public.%I TO pulsehook_reader', wanted.columns, wanted.table_name);
    END LOOP;
END
$$;
