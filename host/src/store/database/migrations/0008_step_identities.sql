-- What a step of a pipeline depended on when it last made something: the JSON document of which `cache_key` is the digest.
-- It tells what has changed since.
CREATE TABLE step_identities (
    pipeline TEXT {bytes} NOT NULL,
    step TEXT {bytes} NOT NULL,
    identity TEXT {bytes} NOT NULL,
    PRIMARY KEY (pipeline, step)
) {clustered};
