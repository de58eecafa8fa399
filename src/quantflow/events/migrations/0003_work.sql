-- Work that exactly one worker at a time holds a lease on.
CREATE TABLE work (
    run_id       text        PRIMARY KEY,
    kind         text        NOT NULL,
    priority     integer     NOT NULL DEFAULT 5,
    payload      json        NOT NULL,
    state        text        NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'leased', 'done', 'failed')),
    available_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    owner        text,
    token        bigint      NOT NULL DEFAULT 0,  -- rises with each lease: a stale holder is refused by it
    lease_until  timestamptz,
    attempts     integer     NOT NULL DEFAULT 0,
    error        text,
    enqueued_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz
);
CREATE INDEX work_open ON work (kind, priority DESC, enqueued_at) WHERE state IN ('ready', 'leased');

CREATE TABLE service_heartbeats (
    service text        NOT NULL,
    host    text        NOT NULL,
    pid     integer     NOT NULL,
    beat_at timestamptz NOT NULL,
    PRIMARY KEY (service, host, pid)
);

-- Content by its SHA-256: what events refer to and topics are too narrow for.
CREATE TABLE blobs (
    sha256     text        PRIMARY KEY,
    size       bigint      NOT NULL,
    content    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE blobs ALTER COLUMN content SET STORAGE EXTERNAL;
