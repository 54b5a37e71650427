-- Shared state in a kernelbridge state file, since version 1. docs/state.md explains them for people who open it directly.

CREATE TABLE state (
    key        TEXT    NOT NULL PRIMARY KEY,
    value      TEXT    NOT NULL CHECK (typeof(value) = 'text'),
    version    INTEGER NOT NULL DEFAULT 0,
    updated_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_by TEXT    NOT NULL DEFAULT ''
);

-- One row: the highest version any deleted key had. A new key starts above it, so a version never comes back.
CREATE TABLE state_floor (
    id      INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL
);
INSERT INTO state_floor (id, version) VALUES (1, 0);

CREATE TRIGGER state_deleted AFTER DELETE ON state BEGIN
    UPDATE state_floor SET version = max(version, OLD.version);
END;

-- The two below cost kernelbridge one comparison. They are for other programs, whose plain INSERT and UPDATE would
-- otherwise leave the version alone and be overwritten by a compare-and-set that never saw them.
CREATE TRIGGER state_inserted AFTER INSERT ON state
WHEN NEW.version <= (SELECT version FROM state_floor) BEGIN
    UPDATE state SET version = (SELECT version + 1 FROM state_floor) WHERE key = NEW.key;
END;

CREATE TRIGGER state_updated AFTER UPDATE OF value ON state
WHEN NEW.version <= OLD.version BEGIN
    UPDATE state
    SET version = OLD.version + 1, updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
    WHERE key = NEW.key;
END;
