-- Who is in the fleet, and what was consumed. Each ledger sends its rows in the order of their ids; how far it has come
-- is kept here (`shipped`), in the same transaction as the rows, so that sending again changes nothing, whoever is
-- killed when.
CREATE TABLE oap_meta (
    application text NOT NULL,
    version int NOT NULL,                       -- migrations that have been made
    oldest int NOT NULL,                        -- builds that know fewer must not write any more
    epoch uuid NOT NULL
);
INSERT INTO oap_meta VALUES ('openai-api-proxy', 0, 1, md5(random()::text || clock_timestamp())::uuid);
CREATE TABLE oap_ledgers (
    id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid uuid NOT NULL UNIQUE,                  -- in the ledger file
    node text NOT NULL,                         -- FLEET_NODE of the last that joined with it
    process int,                                -- the one that ships
    shipped bigint NOT NULL DEFAULT 0,          -- every row up to this id is in
    shipped_at bigint NOT NULL DEFAULT 0,       -- when that row started, ns: it tells a ledger from an older copy
    fresh_to bigint NOT NULL DEFAULT 0,         -- and all that was committed before this instant, ns
    lost_before bigint NOT NULL DEFAULT 0,      -- of what started before this instant there may be sums only, ns
    retention_days int NOT NULL,
    forgotten boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
CREATE TABLE oap_processes (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ledger smallint NOT NULL REFERENCES oap_ledgers,
    host text NOT NULL,
    version text NOT NULL,
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    clock_skew_ms bigint NOT NULL DEFAULT 0,    -- how far its clock is ahead of this server's
    lag_rows bigint NOT NULL DEFAULT 0,
    ended boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
CREATE INDEX ON oap_processes (ledger);
CREATE TABLE oap_users (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE);
CREATE TABLE oap_teams (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE);
CREATE TABLE oap_models (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE);

-- The columns of `records` in a ledger; codes and units are the same.
CREATE SEQUENCE oap_seq;
CREATE TABLE oap_records (
    seq bigint NOT NULL DEFAULT nextval('oap_seq'),     -- the order of arrival
    ledger smallint NOT NULL,
    id bigint,                                  -- null: a correction that was made here
    started_at bigint NOT NULL,
    user_id int NOT NULL,
    team_id int,
    key_id bigint,
    endpoint smallint NOT NULL,
    model_requested_id int,
    model_id int,
    status smallint NOT NULL,
    outcome smallint NOT NULL,
    usage_source smallint NOT NULL,
    stream smallint NOT NULL,
    cost_nano_usd bigint,
    input_tokens bigint NOT NULL, cached_input_tokens bigint NOT NULL, output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL, total_tokens bigint NOT NULL, cache_write_tokens bigint NOT NULL,
    input_audio_tokens bigint NOT NULL, input_image_tokens bigint NOT NULL, output_audio_tokens bigint NOT NULL,
    output_image_tokens bigint NOT NULL, audio_us bigint NOT NULL, images bigint NOT NULL, tool_calls bigint NOT NULL,
    duration_us bigint NOT NULL,
    first_byte_us bigint,
    proxy_us bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    correction int,                             -- null: a request; else what it adds to `unpriced`
    upstream_request_id text,
    response_id text,
    response_hash bigint                        -- where the same usage may be reported again, under the same id
) PARTITION BY RANGE (started_at);              -- by month (oap_month_v1); retention drops whole ones
CREATE TABLE oap_records_rest PARTITION OF oap_records DEFAULT;
CREATE INDEX ON oap_records (seq);
CREATE INDEX ON oap_records (user_id, seq);
CREATE INDEX ON oap_records (team_id, seq) WHERE team_id IS NOT NULL;
CREATE INDEX ON oap_records USING brin (started_at);
CREATE INDEX ON oap_records (seq) WHERE correction IS NULL AND (status >= 400 OR outcome <> 0);
CREATE INDEX ON oap_records (response_hash) WHERE response_hash IS NOT NULL;

-- Which ledger has shown a response id first: who shows it next waits here for who is at it, and then looks at all rows
-- of the id.
CREATE TABLE oap_counted (hash bigint PRIMARY KEY, ledger smallint NOT NULL, shared boolean NOT NULL DEFAULT false,
    month int NOT NULL);

-- Sums. `who` is a user, less than 0 a team, 0 everybody.
CREATE TABLE oap_hours (
    who int NOT NULL,
    hour int NOT NULL,                          -- since the Unix epoch
    ledger smallint NOT NULL,
    model_id int NOT NULL,
    endpoint smallint NOT NULL,
    requests bigint NOT NULL, errors bigint NOT NULL, unpriced bigint NOT NULL, cost_nano_usd bigint NOT NULL,
    input_tokens bigint NOT NULL, cached_input_tokens bigint NOT NULL, output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL, total_tokens bigint NOT NULL,
    PRIMARY KEY (who, hour, ledger, model_id, endpoint)
) WITH (fillfactor = 80);
CREATE INDEX ON oap_hours (hour);
CREATE TABLE oap_days (
    who int NOT NULL,
    day int NOT NULL,
    ledger smallint NOT NULL,
    model_id int NOT NULL,
    endpoint smallint NOT NULL,
    requests bigint NOT NULL, errors bigint NOT NULL, unpriced bigint NOT NULL, cost_nano_usd bigint NOT NULL,
    input_tokens bigint NOT NULL, cached_input_tokens bigint NOT NULL, output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL, total_tokens bigint NOT NULL,
    PRIMARY KEY (who, day, ledger, model_id, endpoint)
) WITH (fillfactor = 80);
CREATE INDEX ON oap_days (day);

-- What a sender fills: a temporary table `stage`, or `history`, is like one of these.
CREATE TABLE oap_stage_v1 (id bigint, started_at bigint, user_name text, team text, key_id bigint, endpoint smallint,
    model_requested text, model text, status smallint, outcome smallint, usage_source smallint, stream smallint,
    cost_nano_usd bigint, input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, reasoning_tokens bigint,
    total_tokens bigint, cache_write_tokens bigint, input_audio_tokens bigint, input_image_tokens bigint,
    output_audio_tokens bigint, output_image_tokens bigint, audio_us bigint, images bigint, tool_calls bigint,
    duration_us bigint, first_byte_us bigint, proxy_us bigint, request_bytes bigint, response_bytes bigint,
    correction int, upstream_request_id text, response_id text, response_hash bigint);
CREATE TABLE oap_history_stage_v1 (hour int, who text, is_team boolean, model text, endpoint smallint, requests bigint,
    errors bigint, unpriced bigint, cost_nano_usd bigint, input_tokens bigint, cached_input_tokens bigint,
    output_tokens bigint, reasoning_tokens bigint, total_tokens bigint);

-- A sum that stays at the end of its type rather than fail for ever.
CREATE FUNCTION oap_add_v1(a bigint, b bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest(-9223372036854775807, least(9223372036854775807, a::numeric + b))::bigint
$$;
CREATE FUNCTION oap_sum_v1(total numeric) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest(-9223372036854775807, least(9223372036854775807, coalesce(total, 0)))::bigint
$$;

-- This server's clock, ns: how far a ledger is complete is never told as later than that, whatever a node's clock says.
CREATE FUNCTION oap_now_v1() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000
$$;

-- Makes the partition that an instant (ns) belongs to, where the time is not absurd. In a transaction of its own: it
-- waits for all that is at the table.
CREATE FUNCTION oap_month_v1(instant bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month timestamptz := date_trunc('month', to_timestamp(instant / 1000000000) AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    after timestamptz := (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    name text := 'oap_records_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
    lower bigint := extract(epoch FROM month)::bigint * 1000000000;
    upper bigint := extract(epoch FROM after)::bigint * 1000000000;
BEGIN
    IF instant < 1577836800000000000 OR instant >= 4102444800000000000 THEN RETURN; END IF; -- 2020 to 2100
    PERFORM pg_advisory_xact_lock(1869639800, 2);
    IF to_regclass(name) IS NOT NULL THEN RETURN; END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF oap_records FOR VALUES FROM (%s) TO (%s)', name, lower, upper);
END $$;

-- Drops the months that ended longer ago than any ledger keeps its rows, as of now (ns), and forgets their response ids.
-- How many months.
CREATE FUNCTION oap_retain_v1(now_ns bigint) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    days int;
    kept timestamp;                             -- the first month that stays
    name text;
    dropped int := 0;
BEGIN
    SELECT CASE WHEN min(retention_days) > 0 THEN max(retention_days) END INTO days FROM oap_ledgers WHERE NOT forgotten;
    IF days IS NULL THEN RETURN 0; END IF;      -- one keeps them for ever
    kept := date_trunc('month', to_timestamp(now_ns / 1000000000) AT TIME ZONE 'UTC' - make_interval(days => days));
    PERFORM pg_advisory_xact_lock(1869639800, 2);
    FOR name IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'oap_records'::regclass AND c.relname < 'oap_records_' || to_char(kept, 'YYYY_MM')
            AND c.relname ~ '^oap_records_\d{4}_\d\d$'
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    IF dropped > 0 THEN
        DELETE FROM oap_counted c WHERE c.month < to_char(kept, 'YYYYMM')::int;
        UPDATE oap_ledgers SET lost_before = greatest(lost_before, extract(epoch FROM kept)::bigint * 1000000000);
    END IF;
    RETURN dropped;
END $$;

-- A ledger asks to be let in: its number, and who ships for it (0: nobody) with the milliseconds since that was seen.
CREATE FUNCTION oap_join_v1(ledger_uuid uuid, OUT ledger smallint, OUT rival int, OUT unseen_ms bigint)
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO oap_ledgers (uuid, node, retention_days) VALUES (ledger_uuid, '', 0) ON CONFLICT (uuid) DO NOTHING;
    SELECT l.id, coalesce(p.id, 0), coalesce((extract(epoch FROM clock_timestamp() - p.seen) * 1000)::bigint, 0)
        INTO ledger, rival, unseen_ms
        FROM oap_ledgers l LEFT JOIN oap_processes p ON p.id = l.process AND NOT p.ended WHERE l.uuid = ledger_uuid;
END $$;

-- It takes the place of that rival: the number of the new process; null where another was first.
CREATE FUNCTION oap_start_v1(me smallint, rival int, node_name text, host_name text, build text, days int)
RETURNS int LANGUAGE plpgsql AS $$
DECLARE mine int;
BEGIN
    PERFORM FROM oap_ledgers l LEFT JOIN oap_processes p ON p.id = l.process AND NOT p.ended
        WHERE l.id = me AND coalesce(p.id, 0) = rival FOR UPDATE OF l;
    IF NOT FOUND THEN RETURN NULL; END IF;
    UPDATE oap_processes SET ended = true WHERE ledger = me AND NOT ended;
    INSERT INTO oap_processes (ledger, host, version) VALUES (me, host_name, build) RETURNING id INTO mine;
    UPDATE oap_ledgers SET process = mine, node = node_name, retention_days = days, forgotten = false WHERE id = me;
    RETURN mine;
END $$;

-- It lives, and all that its ledger had committed before `fresh` (ns) is in. False where another took its place.
CREATE FUNCTION oap_beat_v1(mine int, fresh bigint, clock_ms bigint, lag bigint, OUT serves boolean, OUT nodes bigint)
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE oap_processes SET seen = clock_timestamp(), lag_rows = lag,
        clock_skew_ms = clock_ms - (extract(epoch FROM clock_timestamp()) * 1000)::bigint WHERE id = mine AND NOT ended;
    UPDATE oap_ledgers SET fresh_to = greatest(fresh_to, least(fresh, oap_now_v1())) WHERE process = mine;
    serves := FOUND;
    SELECT count(*) INTO nodes FROM oap_processes WHERE NOT ended AND seen > clock_timestamp() - interval '10 s';
END $$;

CREATE FUNCTION oap_end_v1(mine int) RETURNS void LANGUAGE sql AS $$
    UPDATE oap_processes SET ended = true, seen = clock_timestamp() WHERE id = mine
$$;

-- Takes in the temporary table `stage`: its rows as records. -1 where the sender has lost its place; else the mark as it
-- is, and, where that is what the sender took it for, the ids that other ledgers have shown, too.
CREATE FUNCTION oap_take_v1(me smallint, mine int, mark bigint, OUT shipped bigint, OUT shared bigint[])
LANGUAGE plpgsql AS $$
BEGIN
    SELECT l.shipped INTO shipped FROM oap_ledgers l WHERE l.id = me AND l.process = mine FOR UPDATE;
    IF NOT FOUND THEN shipped := -1; RETURN; END IF;
    IF shipped <> mark THEN RETURN; END IF;
    INSERT INTO oap_users (name) SELECT DISTINCT s.user_name FROM stage s
        WHERE NOT EXISTS (SELECT FROM oap_users u WHERE u.name = s.user_name) ORDER BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO oap_teams (name) SELECT DISTINCT s.team FROM stage s WHERE s.team IS NOT NULL
        AND NOT EXISTS (SELECT FROM oap_teams t WHERE t.name = s.team) ORDER BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO oap_models (name) SELECT DISTINCT x.name FROM (SELECT '' AS name UNION ALL SELECT model FROM stage
        UNION ALL SELECT model_requested FROM stage) x WHERE x.name IS NOT NULL
        AND NOT EXISTS (SELECT FROM oap_models m WHERE m.name = x.name) ORDER BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO oap_records (ledger, id, started_at, user_id, team_id, key_id, endpoint, model_requested_id, model_id,
        status, outcome, usage_source, stream, cost_nano_usd, input_tokens, cached_input_tokens, output_tokens,
        reasoning_tokens, total_tokens, cache_write_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens,
        output_image_tokens, audio_us, images, tool_calls, duration_us, first_byte_us, proxy_us, request_bytes,
        response_bytes, correction, upstream_request_id, response_id, response_hash)
    SELECT me, s.id, s.started_at, u.id, t.id, s.key_id, s.endpoint, r.id, m.id,
        s.status, s.outcome, s.usage_source, s.stream, s.cost_nano_usd, s.input_tokens, s.cached_input_tokens,
        s.output_tokens, s.reasoning_tokens, s.total_tokens, s.cache_write_tokens, s.input_audio_tokens,
        s.input_image_tokens, s.output_audio_tokens, s.output_image_tokens, s.audio_us, s.images, s.tool_calls,
        s.duration_us, s.first_byte_us, s.proxy_us, s.request_bytes, s.response_bytes, s.correction,
        s.upstream_request_id, s.response_id, s.response_hash
        FROM stage s JOIN oap_users u ON u.name = s.user_name LEFT JOIN oap_teams t ON t.name = s.team
        LEFT JOIN oap_models r ON r.name = s.model_requested LEFT JOIN oap_models m ON m.name = s.model ORDER BY s.id;
    WITH met AS (
        INSERT INTO oap_counted AS c (hash, ledger, month)
        SELECT s.response_hash, me, to_char(to_timestamp(max(s.started_at) / 1000000000) AT TIME ZONE 'UTC', 'YYYYMM')::int
            FROM stage s WHERE s.response_hash IS NOT NULL GROUP BY 1 ORDER BY 1 -- one order: no deadlock
        ON CONFLICT (hash) DO UPDATE SET shared = c.shared OR c.ledger <> excluded.ledger,
            month = greatest(c.month, excluded.month)
        RETURNING c.hash, c.shared)
    SELECT coalesce(array_agg(met.hash), '{}') INTO shared FROM met WHERE met.shared;
END $$;

-- Adds what was taken in to the sums, with the corrections that were made for it, and moves the mark.
CREATE FUNCTION oap_finish_v1(me smallint, corrections bigint[], upto bigint, upto_at bigint, fresh bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tier record;
BEGIN
    FOR tier IN SELECT * FROM (VALUES ('oap_hours', 'hour', 3600000000000), ('oap_days', 'day', 86400000000000))
        x (name, unit, ns)
    LOOP
        EXECUTE format($sql$
            INSERT INTO %1$I AS h SELECT w.who, x.started_at / %3$s, x.ledger, x.model_id, x.endpoint,
                count(*) FILTER (WHERE x.correction IS NULL),
                count(*) FILTER (WHERE x.correction IS NULL AND (x.status >= 400 OR x.outcome <> 0)),
                sum(coalesce(x.correction, (x.cost_nano_usd IS NULL)::int)), oap_sum_v1(sum(x.cost_nano_usd)),
                oap_sum_v1(sum(x.input_tokens)), oap_sum_v1(sum(x.cached_input_tokens)),
                oap_sum_v1(sum(x.output_tokens)), oap_sum_v1(sum(x.reasoning_tokens)), oap_sum_v1(sum(x.total_tokens))
            FROM (
                SELECT $1 AS ledger, s.started_at, u.id AS user_id, t.id AS team_id, m.id AS model_id, s.endpoint,
                    s.correction, s.status, s.outcome, s.cost_nano_usd, s.input_tokens, s.cached_input_tokens,
                    s.output_tokens, s.reasoning_tokens, s.total_tokens
                FROM stage s JOIN oap_users u ON u.name = s.user_name LEFT JOIN oap_teams t ON t.name = s.team
                    JOIN oap_models m ON m.name = coalesce(s.model, s.model_requested, '')
                UNION ALL
                SELECT r.ledger, r.started_at, r.user_id, r.team_id,
                    coalesce(r.model_id, r.model_requested_id, (SELECT id FROM oap_models WHERE name = '')), r.endpoint,
                    r.correction, r.status, r.outcome, r.cost_nano_usd, r.input_tokens, r.cached_input_tokens,
                    r.output_tokens, r.reasoning_tokens, r.total_tokens
                FROM oap_records r WHERE r.seq = ANY ($2)
            ) x CROSS JOIN LATERAL (VALUES (x.user_id), (-x.team_id), (0)) w (who)
            WHERE w.who IS NOT NULL GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
            ON CONFLICT (who, %2$I, ledger, model_id, endpoint) DO UPDATE SET
                requests = oap_add_v1(h.requests, excluded.requests), errors = oap_add_v1(h.errors, excluded.errors),
                unpriced = oap_add_v1(h.unpriced, excluded.unpriced),
                cost_nano_usd = oap_add_v1(h.cost_nano_usd, excluded.cost_nano_usd),
                input_tokens = oap_add_v1(h.input_tokens, excluded.input_tokens),
                cached_input_tokens = oap_add_v1(h.cached_input_tokens, excluded.cached_input_tokens),
                output_tokens = oap_add_v1(h.output_tokens, excluded.output_tokens),
                reasoning_tokens = oap_add_v1(h.reasoning_tokens, excluded.reasoning_tokens),
                total_tokens = oap_add_v1(h.total_tokens, excluded.total_tokens)
            $sql$, tier.name, tier.unit, tier.ns) USING me, corrections;
    END LOOP;
    UPDATE oap_ledgers SET shipped = upto, shipped_at = upto_at,
        fresh_to = greatest(fresh_to, least(fresh, oap_now_v1())) WHERE id = me;
END $$;

-- Takes in the temporary table `history`: a ledger's sums of the rows that it has no longer, of all hours from `first`
-- to `last`, in place of what is there of them. False where the sender has lost its place.
CREATE FUNCTION oap_history_v1(me smallint, mine int, first int, last int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM oap_ledgers WHERE id = me AND process = mine FOR UPDATE;
    IF NOT FOUND THEN RETURN false; END IF;
    INSERT INTO oap_users (name) SELECT DISTINCT s.who FROM history s WHERE NOT s.is_team ORDER BY 1
        ON CONFLICT DO NOTHING;
    INSERT INTO oap_teams (name) SELECT DISTINCT s.who FROM history s WHERE s.is_team ORDER BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO oap_models (name) SELECT DISTINCT s.model FROM history s ORDER BY 1 ON CONFLICT DO NOTHING;
    DELETE FROM oap_hours WHERE ledger = me AND hour BETWEEN first AND last;
    INSERT INTO oap_hours SELECT w.who, s.hour, me, m.id, s.endpoint, sum(requests), sum(errors), sum(unpriced),
        oap_sum_v1(sum(cost_nano_usd)), oap_sum_v1(sum(input_tokens)), oap_sum_v1(sum(cached_input_tokens)),
        oap_sum_v1(sum(output_tokens)), oap_sum_v1(sum(reasoning_tokens)), oap_sum_v1(sum(total_tokens))
        FROM history s JOIN oap_models m ON m.name = s.model
            LEFT JOIN oap_users u ON NOT s.is_team AND u.name = s.who LEFT JOIN oap_teams t ON s.is_team AND t.name = s.who
            CROSS JOIN LATERAL (VALUES (u.id), (-t.id), (CASE WHEN NOT s.is_team THEN 0 END)) w (who)
        WHERE w.who IS NOT NULL GROUP BY 1, 2, 3, 4, 5;
    DELETE FROM oap_days WHERE ledger = me AND day BETWEEN first / 24 AND last / 24;
    INSERT INTO oap_days SELECT who, hour / 24, ledger, model_id, endpoint, sum(requests), sum(errors), sum(unpriced),
        oap_sum_v1(sum(cost_nano_usd)), oap_sum_v1(sum(input_tokens)), oap_sum_v1(sum(cached_input_tokens)),
        oap_sum_v1(sum(output_tokens)), oap_sum_v1(sum(reasoning_tokens)), oap_sum_v1(sum(total_tokens))
        FROM oap_hours WHERE ledger = me AND hour BETWEEN first / 24 * 24 AND last / 24 * 24 + 23 GROUP BY 1, 2, 3, 4, 5;
    UPDATE oap_ledgers SET lost_before = greatest(lost_before, (last + 1) * 3600000000000) WHERE id = me;
    RETURN true;
END $$;
