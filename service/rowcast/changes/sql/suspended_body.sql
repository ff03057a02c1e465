-- What a trigger runs while revisions change the tables: what it ran before ({body}), as long as its table has the columns
-- that it had then ({columns}: a digest by relation). Otherwise, and if that fails, the table counts as truncated.
BEGIN
    IF ({columns}::jsonb ->> TG_RELID::text) = (
        SELECT md5(string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod), ',' ORDER BY attnum))
        FROM pg_attribute WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped
    ) THEN
        BEGIN
            {body};
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END IF;
    {truncated};
    {wake}
    RETURN NULL;
END
