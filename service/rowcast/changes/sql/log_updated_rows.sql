-- A row that is in only one of the two tables has changed its key: it is logged as deleted and inserted.
INSERT INTO rowcast.change (resource, op, pk, old, new)
SELECT {resource}, CASE WHEN rowcast_o IS NULL THEN 'I' WHEN rowcast_n IS NULL THEN 'D' ELSE 'U' END,
    rowcast_k, rowcast_o, rowcast_n
FROM (
    SELECT {pk} AS rowcast_k,
        CASE WHEN rowcast_old.{key} IS NOT NULL THEN {old} END AS rowcast_o,
        CASE WHEN rowcast_new.{key} IS NOT NULL THEN {new} END AS rowcast_n
    FROM rowcast_old FULL JOIN {rows} ON {same} OFFSET 0
) rowcast_pair WHERE rowcast_o IS DISTINCT FROM rowcast_n
