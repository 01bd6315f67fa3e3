-- Where a retrieval finds what was counted under its id, up to a mark of its own.
CREATE TABLE counted (
    block INTEGER NOT NULL,               -- record_id / 65536
    hash INTEGER NOT NULL,                -- of records.response_id
    record_id INTEGER NOT NULL,
    PRIMARY KEY (block, hash, record_id)
) WITHOUT ROWID;
INSERT INTO marks VALUES ('counted', 0);
-- Requests that are open, where a journal is kept: written before they are sent, deleted with their record.
CREATE TABLE journal (
    owner INTEGER NOT NULL,               -- the process
    id INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    model_requested_id INTEGER,
    stream INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    key_id INTEGER,
    PRIMARY KEY (owner, id)
) WITHOUT ROWID;
