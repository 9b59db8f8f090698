-- Datasets by name, and their versions. Times are milliseconds since 1970. `last_number` is the highest number that a
-- version has had: one that was deleted leaves its number unused.

CREATE TABLE datasets (
    id {id},
    name TEXT {bytes} NOT NULL UNIQUE,
    last_number BIGINT NOT NULL
);

-- `digest` is the manifest's, `content` that of the list of files. `rows` is JSON: how many each
-- split has.
CREATE TABLE dataset_versions (
    id {id},
    dataset BIGINT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    digest TEXT {bytes} NOT NULL,
    content TEXT {bytes} NOT NULL,
    files BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    rows TEXT {bytes} NOT NULL,
    created_at BIGINT NOT NULL,
    published_at BIGINT,
    UNIQUE (dataset, number),
    UNIQUE (dataset, digest)
);

CREATE INDEX dataset_versions_by_content ON dataset_versions (dataset, content);

-- What a version was made from, by digest: parents may be deleted, and belong to other datasets.
CREATE TABLE dataset_parents (
    version BIGINT NOT NULL REFERENCES dataset_versions (id) ON DELETE CASCADE,
    parent TEXT {bytes} NOT NULL,
    PRIMARY KEY (version, parent)
) {clustered};

CREATE INDEX dataset_parents_by_parent ON dataset_parents (parent);

-- Names for versions that can be moved; a version that is deleted takes its names with it.
CREATE TABLE dataset_tags (
    dataset BIGINT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    tag TEXT {bytes} NOT NULL,
    version BIGINT NOT NULL REFERENCES dataset_versions (id) ON DELETE CASCADE,
    PRIMARY KEY (dataset, tag)
) {clustered};
