-- What a day's comparison with the provider's own books came to.
CREATE TABLE reconciliations (
    day INTEGER PRIMARY KEY,              -- whole days since the Unix epoch
    at INTEGER NOT NULL,                  -- when it was compared, ns since the Unix epoch
    summary TEXT NOT NULL                 -- JSON, see reconcile::summary
);
