-- All changes of the transactions $1.
SELECT seq, xid, at, resource, op, pk, old, new, traceparent FROM rowcast.change WHERE xid = ANY ($1::xid8[]);
