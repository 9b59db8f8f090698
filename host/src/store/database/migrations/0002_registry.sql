-- Models by name, and their versions. Times are milliseconds since 1970. `last_number` is the highest number that a
-- version has had: one that was deleted leaves its number unused.

CREATE TABLE registered_models (
    id {id},
    name TEXT {bytes} NOT NULL UNIQUE,
    description TEXT {bytes} NOT NULL,
    last_number BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE registered_model_tags (
    model BIGINT NOT NULL REFERENCES registered_models (id) ON DELETE CASCADE,
    key TEXT {bytes} NOT NULL,
    value TEXT {bytes} NOT NULL,
    PRIMARY KEY (model, key)
) {clustered};

-- `source` is what was asked for, `location` where its files are, `bundle` the digest of what a host can serve. Text
-- is empty where there is none.
CREATE TABLE model_versions (
    id {id},
    model BIGINT NOT NULL REFERENCES registered_models (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    description TEXT {bytes} NOT NULL,
    source TEXT {bytes} NOT NULL,
    location TEXT {bytes} NOT NULL,
    run_id TEXT {bytes} NOT NULL,
    run_link TEXT {bytes} NOT NULL,
    model_id TEXT {bytes} NOT NULL,
    bundle TEXT {bytes} NOT NULL,
    status TEXT {bytes} NOT NULL,
    status_message TEXT {bytes} NOT NULL,
    stage TEXT {bytes} NOT NULL,
    user_id TEXT {bytes} NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (model, number)
);

CREATE INDEX model_versions_by_run ON model_versions (run_id);

CREATE INDEX model_versions_by_update ON model_versions (updated_at DESC);

CREATE TABLE model_version_tags (
    version BIGINT NOT NULL REFERENCES model_versions (id) ON DELETE CASCADE,
    key TEXT {bytes} NOT NULL,
    value TEXT {bytes} NOT NULL,
    PRIMARY KEY (version, key)
) {clustered};

-- Names for versions that can be moved; a version that is deleted takes its names with it.
CREATE TABLE registered_model_aliases (
    model BIGINT NOT NULL REFERENCES registered_models (id) ON DELETE CASCADE,
    alias TEXT {bytes} NOT NULL,
    version BIGINT NOT NULL REFERENCES model_versions (id) ON DELETE CASCADE,
    PRIMARY KEY (model, alias)
) {clustered};

CREATE INDEX registered_model_aliases_by_version ON registered_model_aliases (version)
