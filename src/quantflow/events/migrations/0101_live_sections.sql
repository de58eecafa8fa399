-- Cross-sectional signals live: one state for the whole universe, and which symbols it decided without.

CREATE TABLE live_sections (
    live_id        integer     PRIMARY KEY REFERENCES live_signals ON DELETE CASCADE,
    -- Timestamps decided so far. Moved only from the value that its reader knows, which fences a second reader.
    sections       bigint      NOT NULL,
    last_timestamp timestamptz,
    state          bytea       NOT NULL,
    -- What was known at the kept offsets: the newest timestamp of each partition, the partition of each symbol.
    progress       json        NOT NULL
);

CREATE TABLE live_absences (
    live_id   integer     NOT NULL REFERENCES live_signals ON DELETE CASCADE,
    symbol    text        NOT NULL,
    timestamp timestamptz NOT NULL,
    -- When the bar was read after all, too late to count; null: it never came.
    late_at   timestamptz,
    PRIMARY KEY (live_id, symbol, timestamp)
);
