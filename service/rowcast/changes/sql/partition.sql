-- The number and size of a partition, and when its first change was written; no row if it is empty.
SELECT {number}, pg_total_relation_size('rowcast.change_{number}'),
    (SELECT at FROM rowcast.change_{number} ORDER BY xid, seq LIMIT 1)
WHERE pg_relation_size('rowcast.change_{number}') > 0
