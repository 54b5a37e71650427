-- The tables of version 2: events that are on their way, and those that were given up.

-- Accepted and not yet acknowledged, in order: those of plugins with `journal = true`, and those that found no place in
-- memory (`when-full = "spill"`).
CREATE TABLE backlog (
    seq      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    plugin   TEXT    NOT NULL,
    handler  TEXT    NOT NULL,
    event_id TEXT    NOT NULL,
    topic    TEXT    NOT NULL,
    time     TEXT    NOT NULL,
    key      TEXT,
    data     TEXT    NOT NULL,
    -- Deliveries that failed.
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX backlog_by_plugin ON backlog (plugin, seq);

-- Given up. `error` is an error object of docs/protocol.md.
CREATE TABLE dead_letters (
    id       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    plugin   TEXT    NOT NULL,
    handler  TEXT    NOT NULL,
    event_id TEXT    NOT NULL,
    topic    TEXT    NOT NULL,
    time     TEXT    NOT NULL,
    key      TEXT,
    data     TEXT    NOT NULL,
    attempts INTEGER NOT NULL,
    error    TEXT    NOT NULL,
    dead_at  TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX dead_letters_by_plugin ON dead_letters (plugin, id);

-- What `state.once` did, so that an event that is delivered again does not do it again.
CREATE TABLE once (
    plugin   TEXT    NOT NULL,
    event_id TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    at       INTEGER NOT NULL DEFAULT (unixepoch()),
    PRIMARY KEY (plugin, event_id, key)
) WITHOUT ROWID;

-- What the command line asks of a running host: `retry` or `release` a plugin.
CREATE TABLE requests (
    id     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    what   TEXT    NOT NULL CHECK (what IN ('retry', 'release')),
    plugin TEXT    NOT NULL
);
