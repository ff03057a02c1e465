-- The functions that triggers run, those whose comment begins with $1, with their bodies, a digest of the columns of
-- each relation that they are triggers of, and their comments.
SELECT proname, prosrc, (
    SELECT coalesce(jsonb_object_agg(tgrelid::text, (
        SELECT md5(string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod), ',' ORDER BY attnum))
        FROM pg_attribute WHERE attrelid = tgrelid AND attnum > 0 AND NOT attisdropped
    )), '{}')::text
    FROM pg_trigger WHERE tgfoid = pg_proc.oid
), obj_description(oid, 'pg_proc')
FROM pg_proc
WHERE pronamespace = to_regnamespace('rowcast') AND obj_description(oid, 'pg_proc') LIKE $1 AND prorettype = 'trigger'::regtype;
