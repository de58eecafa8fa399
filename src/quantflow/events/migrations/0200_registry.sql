-- Promoted versions. A version's row and its files never change; which version of a
-- pipeline is active does, and the event log says who changed it (PipelinePromoted).

CREATE TABLE registry_versions (
    version_id    text PRIMARY KEY CHECK (version_id ~ '^[0-9a-f]{64}$'),
    pipeline      text NOT NULL,
    number        integer NOT NULL CHECK (number >= 1),
    contract      jsonb NOT NULL,
    manifest      text NOT NULL,
    description   text NOT NULL,
    owner         text NOT NULL,
    schedule      text,
    promoted_by   text NOT NULL,
    promoted_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (pipeline, number)
);

COMMENT ON COLUMN registry_versions.manifest IS
    'canonical JSON whose SHA-256 is version_id: the SHA-256 of every file by path';

CREATE TABLE registry_active (
    pipeline      text PRIMARY KEY,
    version_id    text NOT NULL REFERENCES registry_versions,
    activated_by  text NOT NULL,
    activated_at  timestamptz NOT NULL DEFAULT now()
);
