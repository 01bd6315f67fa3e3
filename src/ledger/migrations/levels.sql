-- Sums coarser than `rollups`, in time and over everybody. In every level user 0 is everybody, and model -1 with
-- endpoint -1 is all of both; `rollups` has that of everybody only. What `rollups` holds already is summed here, by
-- additions, which never fail where a sum outgrows an integer; `days` and `months` are made afterwards, in steps, and
-- have only the sums that answers give.
INSERT INTO rollups SELECT hour, 0, model_id, endpoint,
    requests, errors, unpriced, cost_nano_usd, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens,
    total_tokens, cache_write_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens,
    output_image_tokens, audio_us, images, duration_us
    FROM rollups WHERE user_id > 0
    ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, errors = errors + excluded.errors,
    unpriced = unpriced + excluded.unpriced, cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd,
    input_tokens = input_tokens + excluded.input_tokens,
    cached_input_tokens = cached_input_tokens + excluded.cached_input_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
    total_tokens = total_tokens + excluded.total_tokens,
    cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
    input_audio_tokens = input_audio_tokens + excluded.input_audio_tokens,
    input_image_tokens = input_image_tokens + excluded.input_image_tokens,
    output_audio_tokens = output_audio_tokens + excluded.output_audio_tokens,
    output_image_tokens = output_image_tokens + excluded.output_image_tokens,
    audio_us = audio_us + excluded.audio_us, images = images + excluded.images,
    duration_us = duration_us + excluded.duration_us;
INSERT INTO rollups SELECT hour, 0, -1, -1,
    requests, errors, unpriced, cost_nano_usd, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens,
    total_tokens, cache_write_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens,
    output_image_tokens, audio_us, images, duration_us
    FROM rollups WHERE user_id = 0
    ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, errors = errors + excluded.errors,
    unpriced = unpriced + excluded.unpriced, cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd,
    input_tokens = input_tokens + excluded.input_tokens,
    cached_input_tokens = cached_input_tokens + excluded.cached_input_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
    total_tokens = total_tokens + excluded.total_tokens,
    cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
    input_audio_tokens = input_audio_tokens + excluded.input_audio_tokens,
    input_image_tokens = input_image_tokens + excluded.input_image_tokens,
    output_audio_tokens = output_audio_tokens + excluded.output_audio_tokens,
    output_image_tokens = output_image_tokens + excluded.output_image_tokens,
    audio_us = audio_us + excluded.audio_us, images = images + excluded.images,
    duration_us = duration_us + excluded.duration_us;
CREATE TABLE days (
    user_id INTEGER NOT NULL,
    day INTEGER NOT NULL,                     -- whole days since the Unix epoch
    model_id INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    requests INTEGER NOT NULL, errors INTEGER NOT NULL, unpriced INTEGER NOT NULL, cost_nano_usd INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, cached_input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL, total_tokens INTEGER NOT NULL,
    PRIMARY KEY (user_id, day, model_id, endpoint)
) WITHOUT ROWID;
CREATE TABLE months (
    user_id INTEGER NOT NULL,
    month INTEGER NOT NULL,                   -- whole months since January 1970
    model_id INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    requests INTEGER NOT NULL, errors INTEGER NOT NULL, unpriced INTEGER NOT NULL, cost_nano_usd INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, cached_input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL, total_tokens INTEGER NOT NULL,
    PRIMARY KEY (user_id, month, model_id, endpoint)
) WITHOUT ROWID;
-- A level holds the days before `done`, and for users up to `user_id` also those before `until`.
CREATE TABLE levels (name TEXT PRIMARY KEY, done INTEGER NOT NULL, until INTEGER NOT NULL, user_id INTEGER NOT NULL)
    WITHOUT ROWID;
INSERT INTO levels VALUES ('days', 0, 0, -1), ('months', 0, 0, -1);
