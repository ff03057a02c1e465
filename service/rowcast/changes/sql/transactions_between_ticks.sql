-- The transactions that snapshot $2 sees and snapshot $1, that of tick $3, does not see. No row at all if this tick was
-- pruned: ticks are pruned before the changes after them, and a statement takes its locks before its snapshot. So if
-- the tick is there, all changes after it were there too.
-- OFFSET 0 forbids a join of the whole log with the few transactions that were running. That would be the best plan
-- while the log is small, and the plan is kept when the log is large.
SELECT xid, last, events FROM (SELECT FROM rowcast.tick WHERE tick = $3) kept LEFT JOIN (
    SELECT xid, max(seq) AS last, count(*) AS events FROM (
        SELECT xid, seq FROM rowcast.change
        WHERE xid >= pg_snapshot_xmax($1) AND xid < pg_snapshot_xmax($2) AND pg_visible_in_snapshot(xid, $2)
        UNION ALL
        SELECT c.xid, c.seq FROM pg_snapshot_xip($1) x, LATERAL (
            SELECT xid, seq FROM rowcast.change WHERE xid = x OFFSET 0
        ) c WHERE pg_visible_in_snapshot(x, $2)
    ) written GROUP BY xid
) transactions ON true;
