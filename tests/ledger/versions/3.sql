-- A ledger as version 3 wrote it: 13 records, 12 of them folded.
PRAGMA application_id = 1868656760;
PRAGMA user_version = 3;
CREATE TABLE counted (
        block INTEGER NOT NULL,               -- record_id / 65536
        hash INTEGER NOT NULL,                -- of records.response_id
        record_id INTEGER NOT NULL,
        PRIMARY KEY (block, hash, record_id)
    ) WITHOUT ROWID;
INSERT INTO "counted" VALUES(0,-9091906194106597633,9);
INSERT INTO "counted" VALUES(0,-9091901796060084789,5);
INSERT INTO "counted" VALUES(0,-9091899597036828367,7);
INSERT INTO "counted" VALUES(0,-9091897398013571945,1);
INSERT INTO "counted" VALUES(0,-9091895198990315523,3);
INSERT INTO "counted" VALUES(0,-5477064299913396718,11);
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
CREATE TABLE hours (hour INTEGER PRIMARY KEY, min_id INTEGER NOT NULL, max_id INTEGER NOT NULL);
INSERT INTO "hours" VALUES(498729,1,1);
INSERT INTO "hours" VALUES(498730,2,4);
INSERT INTO "hours" VALUES(498731,5,7);
INSERT INTO "hours" VALUES(498732,8,10);
INSERT INTO "hours" VALUES(498733,11,12);
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
CREATE TABLE levels (name TEXT PRIMARY KEY, done INTEGER NOT NULL, until INTEGER NOT NULL, user_id INTEGER NOT NULL)
    WITHOUT ROWID;
INSERT INTO "levels" VALUES('days',0,0,-1);
INSERT INTO "levels" VALUES('months',0,0,-1);
CREATE TABLE marks (name TEXT PRIMARY KEY, record_id INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "marks" VALUES('counted',12);
INSERT INTO "marks" VALUES('fold',12);
CREATE TABLE models (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
INSERT INTO "models" VALUES(0,'');
INSERT INTO "models" VALUES(1,'gpt-5');
INSERT INTO "models" VALUES(2,'gpt-5-2025-08-07');
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
INSERT INTO "records" VALUES(1,1795427400123456000,2,3,1,2,200,0,0,0,1000,10,0,1,0,11,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_1','resp_1');
INSERT INTO "records" VALUES(2,1795428600123456000,1,1,1,2,200,0,0,0,2000,20,0,2,0,22,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_2','chatcmpl_2');
INSERT INTO "records" VALUES(3,1795429800123456000,2,3,1,2,200,0,0,0,3000,30,0,3,0,33,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_3','resp_3');
INSERT INTO "records" VALUES(4,1795431000123456000,1,1,1,2,200,0,0,0,4000,40,0,4,0,44,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_4','chatcmpl_4');
INSERT INTO "records" VALUES(5,1795432200123456000,2,3,1,2,200,0,0,0,5000,50,0,5,0,55,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_5','resp_5');
INSERT INTO "records" VALUES(6,1795433400123456000,1,1,1,2,200,0,0,0,6000,60,0,6,0,66,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_6','chatcmpl_6');
INSERT INTO "records" VALUES(7,1795434600123456000,2,3,1,2,200,0,0,0,7000,70,0,7,0,77,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_7','resp_7');
INSERT INTO "records" VALUES(8,1795435800123456000,1,1,1,2,200,0,0,0,8000,80,0,8,0,88,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_8','chatcmpl_8');
INSERT INTO "records" VALUES(9,1795437000123456000,2,3,1,2,200,0,0,0,9000,90,0,9,0,99,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_9','resp_9');
INSERT INTO "records" VALUES(10,1795438200123456000,1,1,1,2,200,0,0,0,10000,100,0,10,0,110,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_10','chatcmpl_10');
INSERT INTO "records" VALUES(11,1795439400123456000,2,3,1,2,200,0,0,0,11000,110,0,11,0,121,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_11','resp_11');
INSERT INTO "records" VALUES(12,1795440600123456000,1,1,1,2,200,0,0,0,12000,120,0,12,0,132,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_12','chatcmpl_12');
INSERT INTO "records" VALUES(13,1795440600123456000,1,1,1,2,200,0,0,0,12000,120,0,12,0,132,0,0,0,0,0,0,0,5000,4000,20,100,300,NULL,'req_12','resp_new');
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
INSERT INTO "rollups" VALUES(498729,0,-1,-1,1,0,0,1000,10,0,1,0,11,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498729,0,2,3,1,0,0,1000,10,0,1,0,11,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498729,2,2,3,1,0,0,1000,10,0,1,0,11,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498730,0,-1,-1,3,0,0,9000,90,0,9,0,99,0,0,0,0,0,0,0,15000);
INSERT INTO "rollups" VALUES(498730,0,2,1,2,0,0,6000,60,0,6,0,66,0,0,0,0,0,0,0,10000);
INSERT INTO "rollups" VALUES(498730,0,2,3,1,0,0,3000,30,0,3,0,33,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498730,1,2,1,2,0,0,6000,60,0,6,0,66,0,0,0,0,0,0,0,10000);
INSERT INTO "rollups" VALUES(498730,2,2,3,1,0,0,3000,30,0,3,0,33,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498731,0,-1,-1,3,0,0,18000,180,0,18,0,198,0,0,0,0,0,0,0,15000);
INSERT INTO "rollups" VALUES(498731,0,2,1,1,0,0,6000,60,0,6,0,66,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498731,0,2,3,2,0,0,12000,120,0,12,0,132,0,0,0,0,0,0,0,10000);
INSERT INTO "rollups" VALUES(498731,1,2,1,1,0,0,6000,60,0,6,0,66,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498731,2,2,3,2,0,0,12000,120,0,12,0,132,0,0,0,0,0,0,0,10000);
INSERT INTO "rollups" VALUES(498732,0,-1,-1,3,0,0,27000,270,0,27,0,297,0,0,0,0,0,0,0,15000);
INSERT INTO "rollups" VALUES(498732,0,2,1,2,0,0,18000,180,0,18,0,198,0,0,0,0,0,0,0,10000);
INSERT INTO "rollups" VALUES(498732,0,2,3,1,0,0,9000,90,0,9,0,99,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498732,1,2,1,2,0,0,18000,180,0,18,0,198,0,0,0,0,0,0,0,10000);
INSERT INTO "rollups" VALUES(498732,2,2,3,1,0,0,9000,90,0,9,0,99,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498733,0,-1,-1,2,0,0,23000,230,0,23,0,253,0,0,0,0,0,0,0,10000);
INSERT INTO "rollups" VALUES(498733,0,2,1,1,0,0,12000,120,0,12,0,132,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498733,0,2,3,1,0,0,11000,110,0,11,0,121,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498733,1,2,1,1,0,0,12000,120,0,12,0,132,0,0,0,0,0,0,0,5000);
INSERT INTO "rollups" VALUES(498733,2,2,3,1,0,0,11000,110,0,11,0,121,0,0,0,0,0,0,0,5000);
CREATE TABLE user_records (
    block INTEGER NOT NULL,               -- record_id / 16384
    user_id INTEGER NOT NULL,
    record_id INTEGER NOT NULL,
    PRIMARY KEY (block, user_id, record_id)
) WITHOUT ROWID;
INSERT INTO "user_records" VALUES(0,1,2);
INSERT INTO "user_records" VALUES(0,1,4);
INSERT INTO "user_records" VALUES(0,1,6);
INSERT INTO "user_records" VALUES(0,1,8);
INSERT INTO "user_records" VALUES(0,1,10);
INSERT INTO "user_records" VALUES(0,1,12);
INSERT INTO "user_records" VALUES(0,2,1);
INSERT INTO "user_records" VALUES(0,2,3);
INSERT INTO "user_records" VALUES(0,2,5);
INSERT INTO "user_records" VALUES(0,2,7);
INSERT INTO "user_records" VALUES(0,2,9);
INSERT INTO "user_records" VALUES(0,2,11);
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
INSERT INTO "users" VALUES(1,'a');
INSERT INTO "users" VALUES(2,'太郎');
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
