CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE models (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
INSERT INTO models VALUES (0, '');
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    started_at INTEGER NOT NULL,          -- ns since the Unix epoch
    user_id INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,            -- the codes of usage::record
    model_requested_id INTEGER,
    model_id INTEGER,
    status INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    usage_source INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    cost_nano_usd INTEGER,
    input_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    input_audio_tokens INTEGER NOT NULL,
    input_image_tokens INTEGER NOT NULL,
    output_audio_tokens INTEGER NOT NULL,
    output_image_tokens INTEGER NOT NULL,
    audio_us INTEGER NOT NULL,
    images INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    first_byte_us INTEGER,
    proxy_us INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    key_id INTEGER,
    upstream_request_id TEXT,
    response_id TEXT
);
CREATE TABLE marks (name TEXT PRIMARY KEY, record_id INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO marks VALUES ('fold', 0);     -- all that is up to this record is in the tables below
CREATE TABLE rollups (
    hour INTEGER NOT NULL,                -- started_at in whole hours since the Unix epoch
    user_id INTEGER NOT NULL,
    model_id INTEGER NOT NULL,            -- of Record::model_name
    endpoint INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    input_audio_tokens INTEGER NOT NULL,
    input_image_tokens INTEGER NOT NULL,
    output_audio_tokens INTEGER NOT NULL,
    output_image_tokens INTEGER NOT NULL,
    audio_us INTEGER NOT NULL,
    images INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    PRIMARY KEY (hour, user_id, model_id, endpoint)
) WITHOUT ROWID;
CREATE TABLE user_records (
    block INTEGER NOT NULL,               -- record_id / 16384
    user_id INTEGER NOT NULL,
    record_id INTEGER NOT NULL,
    PRIMARY KEY (block, user_id, record_id)
) WITHOUT ROWID;
-- The records of an hour are all within these ids (with others among them), so an hour can be cut exactly.
CREATE TABLE hours (hour INTEGER PRIMARY KEY, min_id INTEGER NOT NULL, max_id INTEGER NOT NULL);
