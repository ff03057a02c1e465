-- Ticks from $1 on, up to $2 of them, when the statement began, and with the last of them the resources whose changes it sees and the
-- first one does not see. No resources if nothing has changed but what is not kept any more.
WITH read AS MATERIALIZED (SELECT tick, epoch, snap FROM rowcast.tick WHERE tick >= $1 ORDER BY tick LIMIT $2),
     ends AS MATERIALIZED (
         SELECT (SELECT snap FROM read ORDER BY tick LIMIT 1) AS first, (SELECT snap FROM read ORDER BY tick DESC LIMIT 1) AS last
     )
SELECT tick, epoch, snap, extract(epoch FROM statement_timestamp())::float8,
    CASE WHEN lead(tick) OVER (ORDER BY tick) IS NULL THEN ARRAY(
        SELECT DISTINCT resource FROM (
            SELECT resource FROM rowcast.change
            WHERE xid >= pg_snapshot_xmax((SELECT first FROM ends)) AND xid < pg_snapshot_xmax((SELECT last FROM ends))
                AND pg_visible_in_snapshot(xid, (SELECT last FROM ends))
            UNION ALL
            SELECT c.resource FROM pg_snapshot_xip((SELECT first FROM ends)) x, LATERAL (
                SELECT resource FROM rowcast.change WHERE xid = x OFFSET 0
            ) c WHERE pg_visible_in_snapshot(x, (SELECT last FROM ends))
        ) written
    ) END AS resources
FROM read ORDER BY tick;
