-- Budgets that have passed a threshold: what is to be said of each, once, and when somebody has taken it.
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY,
    level TEXT NOT NULL,                  -- user, team or total
    name TEXT NOT NULL,                   -- empty for everybody
    period TEXT NOT NULL,                 -- day or month
    number INTEGER NOT NULL,              -- of the day or the month, from January 1970 on
    threshold INTEGER NOT NULL,           -- per cent
    budget_nano_usd INTEGER NOT NULL,     -- one that is changed is another
    spent_nano_usd INTEGER NOT NULL,      -- when that was noticed
    noticed_at INTEGER NOT NULL,          -- ns since the Unix epoch, as the next
    sent_at INTEGER,
    UNIQUE (period, number, level, name, threshold, budget_nano_usd)
);
CREATE INDEX unsent_alerts ON alerts (id) WHERE sent_at IS NULL;
-- The day on which a key was last used, counted from 1970-01-01; null where that was never, or before there was this.
ALTER TABLE client_keys ADD COLUMN last_used_day INTEGER;
