-- Whether there are changes after the last tick: of younger transactions, or of transactions that were running at the
-- last tick and have ended since.
EXISTS (
    SELECT FROM {_gaps}
    WHERE EXISTS (SELECT FROM rowcast.change c WHERE c.xid > low AND c.xid < high OFFSET 0)
    OFFSET 0
) OR EXISTS (
    SELECT FROM pg_snapshot_xip(last.snap) x
    WHERE CASE WHEN pg_visible_in_snapshot(x, pg_current_snapshot())
               THEN EXISTS (SELECT FROM rowcast.change c WHERE c.xid = x OFFSET 0) END
    OFFSET 0
)
