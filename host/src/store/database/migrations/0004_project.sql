-- One row: what this database calls itself where it keeps blobs, so that no other one frees them.

CREATE TABLE project (
    id TEXT {bytes} NOT NULL
)
