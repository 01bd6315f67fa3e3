-- Sums by client key, of whole days (UTC) and months. What the rows that are there already add to them follows in steps, up to a mark
-- of its own, for which the rows wait; where nobody has a key there is nothing to follow.
CREATE TABLE key_days (
    day INTEGER NOT NULL,                     -- whole days since the Unix epoch; below 0: -1 - months since January 1970
    user_id INTEGER NOT NULL,
    key_id INTEGER NOT NULL,
    model_id INTEGER NOT NULL,
    requests INTEGER NOT NULL, errors INTEGER NOT NULL, unpriced INTEGER NOT NULL, cost_nano_usd INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, cached_input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL, total_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, user_id, key_id, model_id)
) WITHOUT ROWID;
INSERT INTO marks SELECT 'key_days', CASE WHEN EXISTS (SELECT 1 FROM client_keys)
    THEN min(record_id, coalesce((SELECT min(id) - 1 FROM records), record_id)) ELSE record_id END
    FROM marks WHERE name = 'fold';
