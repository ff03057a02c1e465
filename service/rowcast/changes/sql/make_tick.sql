-- Make a tick of epoch $1 if changes are waiting for one, and notify the feeds if $2. It is one statement, so that the
-- test and the tick have the same snapshot.
WITH last AS MATERIALIZED ({_last_tick}),
     made AS (
         INSERT INTO rowcast.tick (tick, epoch, snap)
         SELECT last.tick + 1, $1, pg_current_snapshot() FROM last
         WHERE {_changes_are_waiting}
         RETURNING tick
     ),
     notified AS MATERIALIZED (SELECT pg_notify('rowcast_tick', tick::text) FROM made WHERE $2)
SELECT made.tick, pg_snapshot_xmin(pg_current_snapshot()) AS oldest, (SELECT count(*) FROM notified)
FROM (VALUES (1)) one LEFT JOIN made ON true;
