-- The engine's side of a fleet's leases, PostgreSQL 12 or newer: accounts, and one function that takes a batch of
-- messages in one statement, so that one round trip does and no lock is held while anything waits for a node. The
-- words are those of src/limit/lease.rs; the same rules stand in tests/leases/engine.rs, and are compared.
--
-- `used` is what is out and has not flowed back, in parts: 60,000 a unit where a rate flows back, so that a millisecond's
-- part is whole; else 1. It is never less than what nodes hold free, so that what is held does not flow back; it may be
-- more than the capacity by debts.
CREATE TABLE oap_accounts (
    account text COLLATE "C" PRIMARY KEY,       -- kind:level:period:name
    used    bigint NOT NULL,
    at      bigint NOT NULL,                    -- ms of this server's clock until which `used` has flowed back
    leases  bigint[] NOT NULL                   -- 9 a lease: ledger lease seq granted spent returned held expires expired
) WITH (fillfactor = 50);                       -- updates stay on their page: no index is written again
-- What others need of what a ledger's process holds. A crash may forget it: they ask again.
CREATE UNLOGGED TABLE oap_recalls (ledger int, account text COLLATE "C", PRIMARY KEY (ledger, account));
-- Until then nothing is granted: an engine that was emptied waits until what its forerunner granted is void.
CREATE TABLE oap_quiet (until_ms bigint NOT NULL);
INSERT INTO oap_quiet VALUES (0);

-- `now_ms` is for tests: a server's own clock else, read behind each account's lock, so that of one account it never
-- goes back but by a step, after which time is counted from where it is.
CREATE FUNCTION oap_exchange_v1(
    now_ms bigint, ttl_ms bigint, my_ledger int,
    accounts text[], caps bigint[], rates bigint[], numbers bigint[], opens boolean[], seqs bigint[], spents bigint[], returneds bigint[],
    helds bigint[], wants bigint[], needs bigint[], leasts bigint[], closes boolean[],
    OUT granted bigint[], OUT available bigint[], OUT others bigint[], OUT wait_ms bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    forgotten_after CONSTANT bigint := 3600000; used_max CONSTANT bigint := 4000000000000000000;
    n CONSTANT int := coalesce(array_length(accounts, 1), 0);
    i int; j int; t bigint; quiet bigint; kind text; part bigint; c bigint; r bigint;
    u bigint; t0 bigint; l bigint[]; rest bigint[]; mine bigint[];
    held bigint; busy bigint; lives bigint; free bigint; late boolean; avail bigint; lack bigint; more bigint; wt bigint;
BEGIN
    granted := array_fill(NULL::bigint, ARRAY[n]); available := array_fill(0::bigint, ARRAY[n]); others := available;
    wait_ms := available;
    SELECT until_ms INTO quiet FROM oap_quiet;
    FOR i IN SELECT o FROM unnest(accounts) WITH ORDINALITY x(a, o) ORDER BY a COLLATE "C", o LOOP -- one order: no deadlock
        c := caps[i]; r := rates[i]; kind := left(accounts[i], 1); part := CASE WHEN r > 0 THEN 60000 ELSE 1 END;
        LOOP
            SELECT used, at, leases INTO u, t0, l FROM oap_accounts WHERE account = accounts[i] FOR UPDATE;
            EXIT WHEN FOUND;
            INSERT INTO oap_accounts VALUES (accounts[i], 0, 0, '{}') ON CONFLICT DO NOTHING;
        END LOOP;
        t := coalesce(now_ms, (extract(epoch FROM clock_timestamp()) * 1000)::bigint);

        -- The leases of others: those that have expired hold nothing, and are forgotten after an hour.
        held := 0; busy := 0; lives := 0; mine := NULL; rest := '{}';
        FOR j IN 1 .. coalesce(array_length(l, 1), 0) BY 9 LOOP
            IF l[j] = my_ledger THEN mine := l[j : j + 8]; CONTINUE; END IF;
            IF kind <> 'b' AND l[j + 8] = 0 AND l[j + 7] < t THEN
                l[j + 8] := 1;
                IF kind = 'c' THEN u := u - (l[j + 3] - l[j + 5]); END IF; -- its requests died with it, or were cut off
            END IF;
            IF l[j + 8] = 0 THEN
                free := greatest(0, l[j + 3] - l[j + 4] - l[j + 5]);
                held := held + free; busy := busy + free + l[j + 6]; lives := lives + (l[j + 7] >= t)::int;
            ELSIF l[j + 7] + forgotten_after < t THEN CONTINUE;
            END IF;
            rest := rest || l[j : j + 8];
        END LOOP;

        IF r > 0 AND t > t0 AND u > 0 THEN u := u - r * least(t - t0, u / r + 1); END IF;

        -- Mine, or a new one in its place: what the older one held may have been spent; its slots are free.
        IF mine IS NULL THEN
            IF opens[i] THEN mine := ARRAY[my_ledger, numbers[i], 0, 0, 0, 0, 0, t, 0]; END IF;
        ELSIF opens[i] AND numbers[i] > mine[2] THEN
            free := greatest(0, mine[4] - mine[5] - mine[6]);
            IF kind = 'b' OR kind = 'c' AND mine[9] = 0 THEN u := u - (mine[4] - mine[6]);
            ELSIF kind <> 'c' AND mine[9] = 0 THEN u := greatest(u, (held + free) * part);
            END IF;
            mine := ARRAY[my_ledger, numbers[i], 0, 0, 0, 0, 0, t, 0];
        END IF;
        IF mine IS NULL OR mine[2] <> numbers[i] THEN
            IF mine IS NOT NULL AND mine[9] = 0 THEN held := held + greatest(0, mine[4] - mine[5] - mine[6]); END IF;
            UPDATE oap_accounts SET used = greatest(u, held * part), at = t, leases = rest || mine
                WHERE account = accounts[i];
            CONTINUE;
        END IF;

        -- What it held until now has not flowed back: it may have been spent a moment ago. What an expired one held has,
        -- so that what comes back of it is not credited, and the rest of it is not held on.
        late := mine[9] = 1 AND kind <> 'c';
        IF mine[9] = 1 AND kind = 'c' THEN u := u + (mine[4] - mine[6]); END IF;
        mine[9] := 0;
        free := CASE WHEN late THEN 0 ELSE greatest(0, mine[4] - mine[5] - mine[6]) END;
        u := greatest(u, (held + free) * part);
        IF seqs[i] > mine[3] THEN
            IF NOT late THEN u := u - (returneds[i] - mine[6]) * part; END IF;
            mine[3] := seqs[i]; mine[5] := spents[i]; mine[6] := returneds[i]; mine[7] := helds[i];
        END IF;
        IF late THEN mine[4] := least(mine[4], mine[5] + mine[6]); END IF;
        free := mine[4] - mine[5] - mine[6];
        IF free < 0 THEN -- a debt
            mine[4] := mine[4] - free; u := least(u - free * part, used_max); free := 0;
        END IF;
        u := greatest(u, (held + free) * part);

        avail := CASE WHEN t < quiet THEN 0 ELSE floor((c * part - u)::numeric / part) END;
        lack := greatest(0, needs[i] - free); wt := 0; more := 0;
        IF lack > 0 AND avail < lack THEN
            IF leasts[i] < needs[i] AND busy = 0 AND free + avail >= leasts[i] THEN more := greatest(0, avail); -- the last of it
            ELSE
                wt := CASE WHEN t < quiet THEN quiet - t
                    WHEN r > 0 AND lack <= c - held - free THEN ceil((u + lack * part - c * part)::numeric / r)
                    ELSE -1 END;
                FOR j IN 1 .. coalesce(array_length(rest, 1), 0) BY 9 LOOP
                    IF rest[j + 8] = 0 AND rest[j + 3] - rest[j + 4] - rest[j + 5] > 0 THEN
                        INSERT INTO oap_recalls VALUES (rest[j], accounts[i]) ON CONFLICT DO NOTHING;
                    END IF;
                END LOOP;
            END IF;
        ELSIF avail > 0 AND wants[i] > free THEN
            more := greatest(0, least(wants[i] - free - lack, (avail - lack) / (lives + 2)));
            more := lack + more - more % greatest(1, needs[i]); -- no part of a request, which nobody could use
        END IF;
        mine[4] := mine[4] + more; u := u + more * part; avail := avail - more; mine[8] := t + ttl_ms;
        granted[i] := mine[4]; available[i] := greatest(0, avail); others[i] := busy; wait_ms[i] := wt;
        -- One that ends is not forgotten yet: its messages may come once more.
        IF closes[i] AND seqs[i] = mine[3] AND mine[4] = mine[5] + mine[6] THEN mine[8] := t; END IF;
        UPDATE oap_accounts SET used = u, at = t, leases = rest || mine WHERE account = accounts[i];
    END LOOP;
END $$;

-- What others need of a ledger's leases: told once.
CREATE FUNCTION oap_recalled_v1(my_ledger int) RETURNS SETOF text LANGUAGE sql AS $$
    DELETE FROM oap_recalls WHERE ledger = my_ledger RETURNING account
$$;

-- A node's ledger is gone for good: what its leases held and did not spend, as far as it has told, is free again.
CREATE FUNCTION oap_forget_leases_v1(gone_ledger int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE a text; u bigint; l bigint[]; kept bigint[]; part bigint; j int;
BEGIN
    FOR a, u, l IN SELECT account, used, leases FROM oap_accounts ORDER BY account FOR UPDATE LOOP
        kept := '{}';
        FOR j IN 1 .. coalesce(array_length(l, 1), 0) BY 9 LOOP
            IF l[j] <> gone_ledger THEN kept := kept || l[j : j + 8];
            ELSIF left(a, 1) = 'b' THEN u := u - greatest(0, l[j + 3] - l[j + 4] - l[j + 5]);
            ELSIF left(a, 1) = 'c' AND l[j + 8] = 0 THEN u := u - (l[j + 3] - l[j + 5]);
            END IF;
        END LOOP;
        IF kept <> l THEN UPDATE oap_accounts SET used = u, leases = kept WHERE account = a; END IF;
    END LOOP;
    DELETE FROM oap_recalls WHERE ledger = gone_ledger;
END $$;

-- Accounts that tell nothing any more: of a minute, used for the last time two hours ago, which is longer than leases are
-- kept and debts last; of a day or a month, forty days ago.
CREATE FUNCTION oap_prune_accounts_v1() RETURNS bigint LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM oap_accounts WHERE at < (extract(epoch FROM clock_timestamp()) * 1000)::bigint
            - CASE left(account, 1) WHEN 'b' THEN 3456000000 ELSE 7200000 END RETURNING 1
    ) SELECT count(*) FROM gone
$$;
