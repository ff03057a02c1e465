-- The ranges of transactions younger than the last tick, between those that are still running: rows of running
-- transactions are skipped, because a large one that stays open would make every poll walk through all of it.
(
    SELECT low, coalesce(lead(low) OVER (ORDER BY low), pg_snapshot_xmax(pg_current_snapshot())) AS high
    FROM (
        SELECT (pg_snapshot_xmax(last.snap)::text::bigint - 1)::text::xid8 AS low
        UNION ALL
        SELECT x FROM pg_snapshot_xip(pg_current_snapshot()) x WHERE x >= pg_snapshot_xmax(last.snap)
    ) running
) gap
