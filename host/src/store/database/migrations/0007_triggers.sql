-- Pipelines that their triggers start. The file is kept as it was when the pipeline was enabled; one that is enabled again
-- is another row. `starts` counts what the triggers have led to: of two servers that want to start it for the same reason,
-- the one that counts up first does.
CREATE TABLE enabled_pipelines (
    id {id},
    name TEXT {bytes} NOT NULL UNIQUE,
    file_name TEXT {bytes} NOT NULL,
    file TEXT {bytes} NOT NULL,
    folder TEXT {bytes} NOT NULL,
    params TEXT {bytes} NOT NULL,
    starts BIGINT NOT NULL,
    enabled_at BIGINT NOT NULL
);

-- What starts them, in the order of the file. `seen` is up to where a trigger has looked: a time in milliseconds since
-- 1970, or the key of a version or an alert. The rest tells of what it started last, or of why it could not.
CREATE TABLE pipeline_triggers (
    pipeline BIGINT NOT NULL REFERENCES enabled_pipelines (id) ON DELETE CASCADE,
    place BIGINT NOT NULL,
    kind TEXT {bytes} NOT NULL,
    subject TEXT {bytes} NOT NULL,
    seen BIGINT NOT NULL,
    fired_at BIGINT,
    cause TEXT {bytes} NOT NULL,
    run_id TEXT {bytes} NOT NULL,
    problem TEXT {bytes} NOT NULL,
    PRIMARY KEY (pipeline, place)
) {clustered};

-- What detectors found of the windows of endpoints. `drifted` of `scores` are beyond what chance explains.
CREATE TABLE alerts (
    id {id},
    endpoint TEXT {bytes} NOT NULL,
    bundle TEXT {bytes} NOT NULL,
    detector TEXT {bytes} NOT NULL,
    detector_digest TEXT {bytes} NOT NULL,
    verdict TEXT {bytes} NOT NULL,
    drifted BIGINT NOT NULL,
    scores BIGINT NOT NULL,
    pipelines TEXT {bytes} NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX alerts_by_endpoint ON alerts (endpoint, id);

-- `pipelines` are the names of those that led to a thing, with spaces between: a pipeline is never started by what it led
-- to itself.
ALTER TABLE dataset_versions ADD COLUMN pipelines TEXT {bytes} NOT NULL DEFAULT '';

CREATE INDEX dataset_versions_by_dataset ON dataset_versions (dataset, id);

ALTER TABLE pipeline_runs ADD COLUMN pipelines TEXT {bytes} NOT NULL DEFAULT '';

UPDATE pipeline_runs SET pipelines = name;

-- What triggered it; empty where a person did.
ALTER TABLE pipeline_runs ADD COLUMN triggered_by TEXT {bytes} NOT NULL DEFAULT '';

CREATE INDEX pipeline_runs_by_status ON pipeline_runs (status, name);
