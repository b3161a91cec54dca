-- What nodes should be, and what their agents say that they are.
-- Moments are Unix milliseconds.

CREATE TABLE configs (
    node       TEXT   PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    generation BIGINT NOT NULL,
    format     TEXT,
    desired    TEXT,
    since      BIGINT NOT NULL,
    set_by     TEXT   NOT NULL,
    wait_until BIGINT
);
CREATE INDEX configs_by_deadline ON configs (wait_until);

-- `token` and `next_token` are hashes; the latter takes the former's place when it is used first.
CREATE TABLE agents (
    node       TEXT   PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    token      TEXT,
    next_token TEXT,
    events     BIGINT NOT NULL,
    heard      BIGINT,
    said       TEXT,
    host       TEXT,
    guests     TEXT
);
CREATE UNIQUE INDEX agents_by_token ON agents (token);
CREATE UNIQUE INDEX agents_by_next_token ON agents (next_token);
