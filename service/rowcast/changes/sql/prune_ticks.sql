-- Delete the ticks made before $1, except the last of them, from which the log is read on.
DELETE FROM rowcast.tick WHERE tick < (
    SELECT coalesce(
        (SELECT tick - 1 FROM rowcast.tick WHERE at > $1 ORDER BY tick LIMIT 1),
        (SELECT max(tick) FROM rowcast.tick)
    )
);
