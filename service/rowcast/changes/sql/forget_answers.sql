DELETE FROM rowcast.answer WHERE key IN (
    SELECT key FROM rowcast.answer WHERE at < clock_timestamp() - make_interval(secs => $1) ORDER BY at LIMIT $2
);
