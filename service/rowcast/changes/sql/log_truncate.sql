-- TRUNCATE of a table, its partitions and its links is one event: of several in a row only the first is logged.
INSERT INTO rowcast.change (resource, op, pk, old, new)
SELECT {resource}, 'T', NULL, NULL, NULL WHERE 'T' IS DISTINCT FROM (
    SELECT c.op FROM rowcast.change c WHERE c.xid = pg_current_xact_id() AND c.resource = {resource}
    ORDER BY c.seq DESC LIMIT 1
)
