-- Those of the tables $1 (quoted) whose foreign keys may set several columns of a row when other rows are deleted.
SELECT name FROM unnest($1::text[]) AS name
WHERE (
    SELECT count(*) > 1 AND bool_or(confdeltype IN ('n', 'd'))
    FROM pg_constraint WHERE conrelid = to_regclass(name) AND contype = 'f'
);
