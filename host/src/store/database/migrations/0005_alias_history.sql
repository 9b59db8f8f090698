-- What aliases meant, and since when: one row for every change. `number` is the version's, null where the alias was taken
-- away; it and the bundle stay when the version is deleted. Times are milliseconds since 1970, rows are in the order of
-- their keys also where a clock went back.

CREATE TABLE alias_history (
    id {id},
    model BIGINT NOT NULL REFERENCES registered_models (id) ON DELETE CASCADE,
    alias TEXT {bytes} NOT NULL,
    number BIGINT,
    bundle TEXT {bytes} NOT NULL,
    changed_at BIGINT NOT NULL
);

CREATE INDEX alias_history_by_model ON alias_history (model, alias, id);

-- What they meant before is not known.
INSERT INTO alias_history (model, alias, number, bundle, changed_at)
SELECT a.model, a.alias, v.number, v.bundle, {now}
FROM registered_model_aliases a JOIN model_versions v ON v.id = a.version
ORDER BY a.model, a.alias
