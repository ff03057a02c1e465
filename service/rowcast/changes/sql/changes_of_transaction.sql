-- A page of the changes of transaction $1, after number $2.
SELECT seq, xid, at, resource, op, pk, old, new, traceparent FROM rowcast.change
WHERE xid = $1 AND seq > $2 ORDER BY seq LIMIT $3 OFFSET $4;
