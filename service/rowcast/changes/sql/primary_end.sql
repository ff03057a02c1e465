-- How far the primary is: its history, its newest tick, which transactions have committed, and the end of its write-ahead log in bytes. Where nothing has been
-- written to a page yet, that end comes after the page's header, and a standby counts without it: 40 bytes in the first page
-- of a segment, and 24 in others. "settled" is whether the newest epoch is that of the history which goes on here.
SELECT epoch.epoch,
    (SELECT max(tick) FROM rowcast.tick) AS tick,
    (lsn - CASE WHEN lsn % segment = 40 THEN 40 WHEN lsn % page = 24 THEN 24 ELSE 0 END)::bigint AS lsn,
    control.system_identifier AS system,
    pg_current_snapshot()::text AS snapshot,
    current_user AS role,
    epoch.timeline = left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
        AND epoch.system_identifier = control.system_identifier AS settled
FROM (SELECT * FROM rowcast.epoch ORDER BY epoch DESC LIMIT 1) epoch,
    pg_control_system() control,
    (SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS lsn,
        pg_size_bytes(current_setting('wal_segment_size')) AS segment,
        current_setting('wal_block_size')::int AS page OFFSET 0) written;
