-- What version 4 added to a ledger of version 3.
PRAGMA user_version = 4;
-- The index by user with an entry for many records of a user, where it was one for each (see `by_user`). Nothing is
-- sorted: there may be no place for temporary files.
CREATE TABLE records_by_user (
    block INTEGER NOT NULL,                   -- record_id / 16384
    user_id INTEGER NOT NULL,
    record_id INTEGER NOT NULL,               -- the first of them
    places BLOB NOT NULL,                     -- record_id % 16384 of each, in order, two bytes, the high one first
    PRIMARY KEY (block, user_id, record_id)
) WITHOUT ROWID;
INSERT INTO records_by_user
    SELECT block, user_id, record_id,
        (SELECT unhex(group_concat(printf('%04x', record_id % 16384), '')) FROM
            (SELECT record_id FROM user_records of_entry
                WHERE of_entry.block = numbered.block AND of_entry.user_id = numbered.user_id
                    AND of_entry.record_id >= numbered.record_id
                ORDER BY record_id LIMIT 480))
    FROM (SELECT *, row_number() OVER (PARTITION BY block, user_id ORDER BY record_id) AS number
        FROM user_records) numbered
    WHERE (number - 1) % 480 = 0;
DROP TABLE user_records;
