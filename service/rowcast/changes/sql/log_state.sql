-- The first and the last tick, since when changes have been waiting for a tick, and the size of the log.
WITH last AS MATERIALIZED ({_last_tick}),
     first AS MATERIALIZED (SELECT tick, epoch, at FROM rowcast.tick ORDER BY tick LIMIT 1),
     waiting (at) AS (
         SELECT c.at FROM last, LATERAL {_gaps},
             LATERAL (SELECT c.at FROM rowcast.change c WHERE c.xid > low AND c.xid < high ORDER BY c.xid, c.seq LIMIT 1) c
         UNION ALL
         SELECT c.at FROM last, pg_snapshot_xip(last.snap) x,
             LATERAL (SELECT c.at FROM rowcast.change c WHERE c.xid = x ORDER BY c.seq LIMIT 1) c
     )
SELECT first.epoch, first.tick, first.at, last.epoch, last.tick, last.at,
    (SELECT extract(epoch FROM clock_timestamp() - greatest(last.at, min(waiting.at)))::float8
        FROM waiting HAVING count(*) > 0),
    (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('rowcast.change'))::bigint
        + pg_total_relation_size('rowcast.tick'),
    current_setting('transaction_read_only')::bool
FROM first, last;
