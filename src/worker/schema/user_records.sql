-- The index by user with an entry for many records of a user, where it was one for each (see `by_user`).
ALTER TABLE user_records RENAME TO user_records_of_one;
CREATE TABLE user_records (
    block INTEGER NOT NULL,                   -- record_id / 16384
    user_id INTEGER NOT NULL,
    record_id INTEGER NOT NULL,               -- the first of them
    places BLOB NOT NULL,                     -- record_id % 16384 of each, in order, two bytes, the high one first
    PRIMARY KEY (block, user_id, record_id)
) WITHOUT ROWID;
INSERT INTO user_records
    SELECT block, user_id, min(record_id), unhex(group_concat(printf('%04x', record_id % 16384), '' ORDER BY record_id))
    FROM (SELECT *, (row_number() OVER (PARTITION BY block, user_id ORDER BY record_id) - 1) / 480 AS entry
        FROM user_records_of_one)
    GROUP BY block, user_id, entry;
DROP TABLE user_records_of_one;
