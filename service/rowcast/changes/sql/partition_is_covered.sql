-- Whether the first tick from $1 on sees every committed change of a partition.
SELECT coalesce((SELECT xid FROM {relation} ORDER BY xid DESC LIMIT 1) < pg_snapshot_xmax(snap), true)
    AND NOT EXISTS (SELECT FROM pg_snapshot_xip(snap) x
        WHERE EXISTS (SELECT FROM {relation} c WHERE c.xid = x OFFSET 0))
FROM rowcast.tick WHERE tick >= $1 ORDER BY tick LIMIT 1
