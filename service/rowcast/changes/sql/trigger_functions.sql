-- The functions that triggers run, with their comments, which begin with $1 and have a digest.
SELECT proname, obj_description(oid, 'pg_proc') FROM pg_proc
WHERE pronamespace = to_regnamespace('rowcast') AND obj_description(oid, 'pg_proc') LIKE $1;
