-- The state of the provisioner. Plain enough for SQLite and PostgreSQL alike.
-- Moments are Unix milliseconds, except `leases.ends`, which DHCP counts in seconds.

CREATE TABLE nodes (
    id        TEXT   PRIMARY KEY,
    name      TEXT   NOT NULL UNIQUE,
    state     TEXT   NOT NULL,
    heading   TEXT,
    reason    TEXT,
    reserved  TEXT   UNIQUE,
    host_key  TEXT   NOT NULL,
    inventory TEXT,
    body      TEXT   NOT NULL,
    version   BIGINT NOT NULL
);

CREATE TABLE macs (
    mac  TEXT PRIMARY KEY,
    node TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE
);
CREATE INDEX macs_by_node ON macs (node);

CREATE TABLE deployments (
    id         TEXT   PRIMARY KEY,
    node       TEXT   NOT NULL,
    image      TEXT   NOT NULL,
    manifest   TEXT   NOT NULL,
    step       TEXT   NOT NULL,
    wait_what  TEXT,
    wait_since BIGINT,
    wait_until BIGINT,
    wait_then  TEXT,
    outcome    TEXT,
    reason     TEXT,
    ended      BIGINT,
    boot_token TEXT,
    bearer     TEXT,
    body       TEXT   NOT NULL,
    version    BIGINT NOT NULL
);
CREATE INDEX deployments_by_node ON deployments (node);
CREATE UNIQUE INDEX deployments_open ON deployments (node) WHERE outcome IS NULL;
CREATE UNIQUE INDEX deployments_by_boot_token ON deployments (boot_token);
CREATE UNIQUE INDEX deployments_by_bearer ON deployments (bearer);

CREATE TABLE events (
    id         BIGINT PRIMARY KEY,
    happened   BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    node       TEXT,
    deployment TEXT,
    text       TEXT   NOT NULL
);
CREATE INDEX events_by_node ON events (node, id);
CREATE INDEX events_by_deployment ON events (deployment, id);

-- Numbers given out under the row's lock, so that they are in the order of the commits.
CREATE TABLE counters (
    name  TEXT   PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('event', 0);

CREATE TABLE leases (
    ip        TEXT   PRIMARY KEY,
    mac       TEXT   NOT NULL,
    client_id TEXT,
    hostname  TEXT,
    ends      BIGINT NOT NULL
);
CREATE INDEX leases_by_mac ON leases (mac);

-- Answers already given, for clients that repeat a request (Idempotency-Key).
CREATE TABLE answers (
    request_key TEXT   PRIMARY KEY,
    request     TEXT   NOT NULL,
    status      BIGINT NOT NULL,
    body        TEXT   NOT NULL,
    given       BIGINT NOT NULL
);
