-- Runs the statements that log: usually {planned}, whose plans the session keeps, or {replanned} if {large}.
-- The last of them says how many events there are. Settings that last as long as the transaction remember:
-- rowcast.nested that rows may have changed since their statement, rowcast.linked that links have changed, so that a
-- new row may have some, and rowcast.before_delete what the sequence of changes was before a DELETE.
DECLARE rowcast_rows bigint;
BEGIN
    {before}
    IF {large} THEN
        {replanned}
        GET DIAGNOSTICS rowcast_rows = ROW_COUNT;
    ELSE
        {planned}
        GET DIAGNOSTICS rowcast_rows = ROW_COUNT;
    END IF;
    {after}
    IF rowcast_rows > 0 THEN
        {wake}
        IF pg_trigger_depth() > 1 THEN
            PERFORM set_config('rowcast.nested', 'on', true);
        END IF;
    END IF;
    RETURN NULL;
END
