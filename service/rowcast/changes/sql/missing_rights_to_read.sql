-- The rights that a role lacks to read the tables $1, and the position of a standby.
SELECT 'USAGE on the schema rowcast' FROM to_regnamespace('rowcast') n WHERE NOT has_schema_privilege(n, 'USAGE')
UNION ALL
SELECT 'SELECT on ' || name FROM unnest(ARRAY['rowcast.epoch', 'rowcast.tick', 'rowcast.change'] || $1::text[]) AS name
WHERE CASE WHEN name NOT LIKE 'rowcast.%' OR has_schema_privilege(to_regnamespace('rowcast'), 'USAGE')
    THEN NOT has_table_privilege(to_regclass(name), 'SELECT') END;
