-- The rights that the role lacks to find out the version of the log.
SELECT missing.* FROM to_regnamespace('rowcast') n, LATERAL (
    SELECT 'USAGE on the schema rowcast' WHERE NOT coalesce(has_schema_privilege(n, 'USAGE'), true)
    UNION ALL SELECT 'SELECT on rowcast.version' WHERE coalesce(has_schema_privilege(n, 'USAGE'), true)
        AND NOT coalesce(has_table_privilege(to_regclass('rowcast.version'), 'SELECT'), true)
) missing;
