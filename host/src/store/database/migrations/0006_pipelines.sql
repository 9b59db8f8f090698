-- A pipeline that was started. Its file is kept as it was, so that it can go on whatever became of the file. `run_id` is
-- the run that the runs of its steps are children of; `owner` is the process that runs it, none when it has ended.
CREATE TABLE pipeline_runs (
    id {id},
    run_id TEXT {bytes} NOT NULL UNIQUE,
    name TEXT {bytes} NOT NULL,
    file_name TEXT {bytes} NOT NULL,
    file TEXT {bytes} NOT NULL,
    folder TEXT {bytes} NOT NULL,
    params TEXT {bytes} NOT NULL,
    status TEXT {bytes} NOT NULL,
    owner TEXT {bytes} NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT
);

CREATE INDEX pipeline_runs_by_name ON pipeline_runs (name, id);

-- How far a step is. `run_id` is its run; of a step that was not run because its result was there, the run that made it.
-- `outputs` is a JSON object.
CREATE TABLE pipeline_steps (
    pipeline_run BIGINT NOT NULL REFERENCES pipeline_runs (id) ON DELETE CASCADE,
    step TEXT {bytes} NOT NULL,
    status TEXT {bytes} NOT NULL,
    run_id TEXT {bytes} NOT NULL,
    attempts BIGINT NOT NULL,
    outputs TEXT {bytes} NOT NULL,
    reason TEXT {bytes} NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    PRIMARY KEY (pipeline_run, step)
) {clustered};

-- What steps have made, by the digest of everything that it depends on.
CREATE TABLE step_results (
    cache_key TEXT {bytes} NOT NULL PRIMARY KEY,
    outputs TEXT {bytes} NOT NULL,
    run_id TEXT {bytes} NOT NULL,
    made_at BIGINT NOT NULL
) {clustered};
