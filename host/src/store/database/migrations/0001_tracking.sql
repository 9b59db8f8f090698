-- Experiments and runs, as MLflow means them. Times are milliseconds since 1970. A row that is deleted stays until it
-- is collected: `deleted_at` says since when.

CREATE TABLE experiments (
    id {id},
    name TEXT {bytes} NOT NULL UNIQUE,
    artifact_location TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);

CREATE TABLE experiment_tags (
    experiment BIGINT NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,
    key TEXT {bytes} NOT NULL,
    value TEXT {bytes} NOT NULL,
    PRIMARY KEY (experiment, key)
) {clustered};

CREATE TABLE runs (
    id {id},
    run_id TEXT {bytes} NOT NULL UNIQUE,
    experiment BIGINT NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,
    name TEXT {bytes} NOT NULL,
    user_id TEXT {bytes} NOT NULL,
    status TEXT {bytes} NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    artifact_uri TEXT NOT NULL,
    deleted_at BIGINT
);

CREATE INDEX runs_by_start ON runs (experiment, started_at DESC, run_id);

CREATE TABLE run_tags (
    run BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key TEXT {bytes} NOT NULL,
    value TEXT {bytes} NOT NULL,
    PRIMARY KEY (run, key)
) {clustered};

CREATE TABLE run_params (
    run BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key TEXT {bytes} NOT NULL,
    value TEXT {bytes} NOT NULL,
    PRIMARY KEY (run, key)
) {clustered};

-- One metric of one run. `value` is the newest point's, the one of highest step, then timestamp, then value; it is
-- null where that is not a number, which sorts and compares as MLflow wants it.
CREATE TABLE series (
    id {id},
    run BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key TEXT {bytes} NOT NULL,
    step BIGINT NOT NULL,
    timestamp BIGINT NOT NULL,
    value DOUBLE PRECISION,
    UNIQUE (run, key)
);

CREATE INDEX series_by_value ON series (key, value, run);

-- The points of a series. `bits` are those of the 64-bit float, so that no value is lost or rounded; a point that is
-- sent again is the row it already is.
CREATE TABLE points (
    series BIGINT NOT NULL,
    step BIGINT NOT NULL,
    timestamp BIGINT NOT NULL,
    bits BIGINT NOT NULL,
    PRIMARY KEY (series, step, timestamp, bits)
) {clustered};

-- Artifacts are blobs; their paths are only names. A path has no leading or doubled slash.
CREATE TABLE artifacts (
    path TEXT {bytes} NOT NULL PRIMARY KEY,
    digest TEXT {bytes} NOT NULL,
    size BIGINT NOT NULL,
    stored_at BIGINT NOT NULL
) {clustered};

-- What a run read: a dataset of MLflow's, by name and digest.
CREATE TABLE input_datasets (
    id {id},
    experiment BIGINT NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,
    name TEXT {bytes} NOT NULL,
    digest TEXT {bytes} NOT NULL,
    source_type TEXT NOT NULL,
    source TEXT NOT NULL,
    schema TEXT,
    profile TEXT,
    UNIQUE (experiment, name, digest)
);

CREATE TABLE run_inputs (
    run BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    dataset BIGINT NOT NULL REFERENCES input_datasets (id) ON DELETE CASCADE,
    PRIMARY KEY (run, dataset)
) {clustered};

CREATE TABLE run_input_tags (
    run BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    dataset BIGINT NOT NULL,
    key TEXT {bytes} NOT NULL,
    value TEXT {bytes} NOT NULL,
    PRIMARY KEY (run, dataset, key)
) {clustered};

INSERT INTO experiments (id, name, artifact_location, created_at, updated_at)
VALUES (0, 'Default', 'mlflow-artifacts:/0', 0, 0)
;

-- Models that runs logged, with what they were measured by. `status` is MLflow's number.
CREATE TABLE logged_models (
    id {id},
    model_id TEXT {bytes} NOT NULL UNIQUE,
    experiment BIGINT NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,
    name TEXT {bytes} NOT NULL,
    model_type TEXT NOT NULL,
    source_run_id TEXT {bytes} NOT NULL,
    status BIGINT NOT NULL,
    artifact_uri TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);

CREATE INDEX logged_models_by_time ON logged_models (experiment, created_at DESC);

CREATE TABLE logged_model_tags (
    model BIGINT NOT NULL REFERENCES logged_models (id) ON DELETE CASCADE,
    key TEXT {bytes} NOT NULL,
    value TEXT {bytes} NOT NULL,
    PRIMARY KEY (model, key)
) {clustered};

CREATE TABLE logged_model_params (
    model BIGINT NOT NULL REFERENCES logged_models (id) ON DELETE CASCADE,
    key TEXT {bytes} NOT NULL,
    value TEXT {bytes} NOT NULL,
    PRIMARY KEY (model, key)
) {clustered};

-- The newest point of each metric that a run logged for a model on a dataset.
CREATE TABLE logged_model_metrics (
    model BIGINT NOT NULL REFERENCES logged_models (id) ON DELETE CASCADE,
    key TEXT {bytes} NOT NULL,
    run_id TEXT {bytes} NOT NULL,
    dataset_name TEXT {bytes} NOT NULL,
    dataset_digest TEXT {bytes} NOT NULL,
    step BIGINT NOT NULL,
    timestamp BIGINT NOT NULL,
    value DOUBLE PRECISION,
    PRIMARY KEY (model, key, run_id, dataset_name, dataset_digest)
) {clustered};

-- Models that a run made or read.
CREATE TABLE run_models (
    run BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    model_id TEXT {bytes} NOT NULL,
    is_output BIGINT NOT NULL,
    step BIGINT NOT NULL,
    PRIMARY KEY (run, model_id, is_output)
) {clustered}
