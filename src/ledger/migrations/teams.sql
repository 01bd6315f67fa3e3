-- Teams. A user belongs to one at most; a record keeps the one of its time. In every tier a team's sums stand under the
-- negative of its number, beside those of users (above 0) and of everybody (0), and so do its entries by user.
CREATE TABLE teams (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
ALTER TABLE records ADD COLUMN team_id INTEGER;
ALTER TABLE journal ADD COLUMN team_id INTEGER;
CREATE TABLE members (user TEXT PRIMARY KEY, team TEXT NOT NULL) WITHOUT ROWID;
ALTER TABLE client_keys ADD COLUMN team TEXT;     -- its requests count to it, whatever team the user belongs to
-- Limits of users, teams and everybody. Null: what the settings say; 0: none.
CREATE TABLE limits (
    level TEXT NOT NULL,                  -- user, team or total
    name TEXT NOT NULL,                   -- empty for everybody
    rpm INTEGER,
    tpm INTEGER,
    concurrent INTEGER,
    day_nano_usd INTEGER,
    month_nano_usd INTEGER,
    models TEXT,
    paths TEXT,
    PRIMARY KEY (level, name)
) WITHOUT ROWID;
INSERT INTO limits SELECT 'user', user, rpm, tpm, concurrent, day_nano_usd, month_nano_usd, NULL, NULL FROM user_limits;
INSERT INTO limits (level, name, paths) SELECT 'user', user, paths FROM user_paths WHERE true
    ON CONFLICT DO UPDATE SET paths = excluded.paths;
DROP TABLE user_limits;
DROP TABLE user_paths;
-- What was changed of keys, limits and teams. Only ever appended to.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,                  -- ns since the Unix epoch
    who TEXT NOT NULL,
    what TEXT NOT NULL
);
