-- The fold of each run's stream, kept in the transaction that appends to it.
CREATE TABLE run_view (
    run_id        text        PRIMARY KEY,
    position      bigint      NOT NULL UNIQUE,  -- of the request: the order of listings
    workflow_id   text        NOT NULL,
    workflow_type text        NOT NULL,
    state         text        NOT NULL,
    parent_run_id text,
    updated_at    timestamptz NOT NULL,
    view          json        NOT NULL
);
CREATE INDEX run_view_workflow ON run_view (workflow_id, position DESC);
CREATE INDEX run_view_state ON run_view (state, position DESC);
CREATE INDEX run_view_parent ON run_view (parent_run_id) WHERE parent_run_id IS NOT NULL;
