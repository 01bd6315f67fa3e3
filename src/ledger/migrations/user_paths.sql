-- What of the API a user may ask for, in place of ALLOWED_PATHS, in its words.
CREATE TABLE user_paths (
    user TEXT PRIMARY KEY,
    paths TEXT NOT NULL
) WITHOUT ROWID;
