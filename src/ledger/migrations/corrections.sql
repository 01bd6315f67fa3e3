-- Corrections: rows that are no requests, and say what a number that is known by now is more or less than a row that was
-- estimated or unknown. All but their numbers, which may be negative, is that row's.
ALTER TABLE records ADD COLUMN correction INTEGER;           -- null: a request; else what it adds to `unpriced`, 0 or -1
ALTER TABLE counted ADD COLUMN empty INTEGER NOT NULL DEFAULT 0;    -- the record had no number yet
