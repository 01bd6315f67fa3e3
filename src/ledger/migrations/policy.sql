-- Who may come in, and users' own limits: what an operator changes by commands while servers run. A server looks at
-- `policy.version`, which every change raises, and reads the tables when it is another.
CREATE TABLE policy (version INTEGER NOT NULL);
INSERT INTO policy VALUES (1);
CREATE TABLE client_keys (
    id INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    name TEXT NOT NULL,                   -- what it is for, to tell a user's keys apart
    hash BLOB NOT NULL UNIQUE,            -- SHA-256 of the key
    created_at INTEGER NOT NULL,          -- ns since the Unix epoch, as the other two
    expires_at INTEGER,
    revoked_at INTEGER                    -- a row stays: records name it
);
CREATE TABLE user_limits (                -- null: everybody's limit; 0: none
    user TEXT PRIMARY KEY,
    rpm INTEGER,
    tpm INTEGER,
    concurrent INTEGER,
    day_nano_usd INTEGER,
    month_nano_usd INTEGER
) WITHOUT ROWID;
