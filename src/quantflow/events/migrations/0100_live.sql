-- The live runtime: what each promoted signal says, and the state that it goes on from.
-- Exposures, states and offsets of a batch are written in one transaction.

CREATE TABLE live_signals (
    live_id     integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline    text        NOT NULL,
    version_id  text        NOT NULL,
    -- Why it stands still, for people; null while it runs.
    error       text,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (pipeline, version_id)
);

CREATE TABLE live_state (
    live_id        integer     NOT NULL REFERENCES live_signals ON DELETE CASCADE,
    symbol         text        NOT NULL,
    -- Close of the last bar that went into the state: bars not newer are replays.
    last_timestamp timestamptz NOT NULL,
    bars           bigint      NOT NULL,
    state          bytea       NOT NULL,
    PRIMARY KEY (live_id, symbol)
);

CREATE TABLE live_exposures (
    live_id       integer          NOT NULL REFERENCES live_signals ON DELETE CASCADE,
    symbol        text             NOT NULL,
    session       date             NOT NULL,
    timestamp     timestamptz      NOT NULL,
    exposure      double precision NOT NULL,
    recorded_at   timestamptz      NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (live_id, symbol, timestamp)
);

CREATE TABLE live_offsets (
    live_id     integer     NOT NULL REFERENCES live_signals ON DELETE CASCADE,
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    -- Next offset to read. Moved only from the value that its reader knows, which fences a second reader.
    next_offset bigint      NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (live_id, topic, partition)
);
