-- Calls of the target's own tools, which have a fee beside the tokens.
ALTER TABLE records ADD COLUMN tool_calls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN tool_calls INTEGER NOT NULL DEFAULT 0;
