-- What the position after a statement on a standby is made of, in the statement's own snapshot: the newest tick with its
-- snapshot, the oldest transaction that runs and the next one, and those from the oldest on with changes in the log that the
-- statement sees; "?" if these are too many. PostgreSQL's snapshot of a standby does not say which of them run. Their order makes
-- the planner use the index, also while it knows nothing of a partition, and takes a third of its rows to be above the bound.
(SELECT newest.epoch || '-' || newest.tick || '~' || newest.snap || '~' || pg_snapshot_xmin(pg_current_snapshot()) || '~'
    || pg_snapshot_xmax(pg_current_snapshot()) || '~' || (
        SELECT CASE WHEN count(*) > 500 THEN '?' ELSE coalesce(string_agg(seen.xid::text, ','), '') END
        FROM (
            SELECT xid FROM rowcast.change WHERE xid >= pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid LIMIT 501
        ) seen
    )
 FROM (SELECT epoch, tick, snap FROM rowcast.tick ORDER BY tick DESC LIMIT 1) newest)
