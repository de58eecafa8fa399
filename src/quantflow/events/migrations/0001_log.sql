-- The event log: append-only, one writer at a time, each event chained to the one before by hash.
CREATE TABLE event_log (
    position       bigint      PRIMARY KEY CHECK (position > 0),
    event_id       text        NOT NULL UNIQUE,
    stream         text        NOT NULL,
    stream_version bigint      NOT NULL CHECK (stream_version > 0),
    type           text        NOT NULL,
    type_version   integer     NOT NULL,
    source         text        NOT NULL,
    subject        text        NOT NULL,
    time           timestamptz NOT NULL,
    correlation_id text        NOT NULL,
    causation_id   text,
    traceparent    text,
    -- json, not jsonb: the hash is taken of the exact text.
    data           json        NOT NULL,
    recorded_at    timestamptz NOT NULL,
    previous_hash  text        NOT NULL,
    hash           text        NOT NULL,
    UNIQUE (stream, stream_version)
);
CREATE INDEX event_log_type ON event_log (type, position);
CREATE INDEX event_log_correlation ON event_log (correlation_id, position);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER event_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Positions of one log mean nothing in another one; records on topics name the log they came from.
CREATE TABLE log_identity (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    log_id text    NOT NULL DEFAULT gen_random_uuid()::text
);
INSERT INTO log_identity DEFAULT VALUES;

-- Events that the relay still has to publish, in log order.
CREATE TABLE outbox (
    position     bigint PRIMARY KEY REFERENCES event_log,
    topic        text NOT NULL,
    key          text,
    published_at timestamptz,
    -- Set when the row can never be published; it no longer blocks those behind it.
    refused      text
);
CREATE INDEX outbox_unpublished ON outbox (position) WHERE published_at IS NULL AND refused IS NULL;

-- Events that a consumer group has handled.
CREATE TABLE inbox (
    consumer_group text        NOT NULL,
    event_id       text        NOT NULL,
    received_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, event_id)
);
