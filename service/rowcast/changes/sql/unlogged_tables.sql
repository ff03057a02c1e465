-- Which of the tables $1 (with their schemas, quoted) are not there, or lack one of the triggers that log their changes.
SELECT t.name FROM unnest($1::text[]) AS t (name) WHERE 4 > (
    SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = to_regclass(t.name)
    AND g.tgname IN ('rowcast_insert', 'rowcast_update', 'rowcast_delete', 'rowcast_truncate')
);
