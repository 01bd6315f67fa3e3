-- Who may come in, limits, teams, and who has changed them: the tables `client_keys`, `limits`, `members` and `audit` of a
-- ledger, for all nodes. Each of them copies these into its own, whose columns and units they have.
--
-- Every change raises `version` in its transaction, under a lock of its row, so that changes come one after the other,
-- and marks what it touches with it. What is taken away stays as a row that says so: whoever comes later must hear of it.
CREATE TABLE oap_policy (version bigint NOT NULL);
INSERT INTO oap_policy VALUES (1);
CREATE TABLE oap_keys (
    id bigint PRIMARY KEY,
    user_name text COLLATE "C" NOT NULL,
    team text COLLATE "C",
    name text NOT NULL,
    hash text COLLATE "C" NOT NULL UNIQUE,      -- SHA-256 of the key, in hexadecimal digits
    created_at bigint NOT NULL,                 -- ns since the Unix epoch, as the other two
    expires_at bigint,
    revoked_at bigint,
    last_used_day bigint,                       -- as nodes have told
    version bigint NOT NULL
);
CREATE INDEX ON oap_keys (version);
CREATE TABLE oap_limits (
    level text COLLATE "C" NOT NULL,            -- user, team or total
    name text COLLATE "C" NOT NULL,             -- empty for everybody
    is_set boolean NOT NULL,
    rpm bigint, tpm bigint, concurrent bigint, day_nano_usd bigint, month_nano_usd bigint,
    models text, paths text,
    version bigint NOT NULL,
    PRIMARY KEY (level, name)
);
CREATE INDEX ON oap_limits (version);
CREATE TABLE oap_members (
    user_name text COLLATE "C" PRIMARY KEY,
    team text COLLATE "C",                      -- null: of none any more
    version bigint NOT NULL
);
CREATE INDEX ON oap_members (version);
CREATE TABLE oap_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at bigint NOT NULL,                         -- ns since the Unix epoch
    who text NOT NULL,
    what text NOT NULL
);
