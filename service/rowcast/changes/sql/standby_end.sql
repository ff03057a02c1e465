-- How far a standby is: the history that it follows, the newest tick that it has, and the write-ahead log that it has
-- replayed, in bytes.
SELECT pg_is_in_recovery() AS standby,
    (SELECT max(epoch) FROM rowcast.epoch) AS epoch,
    (SELECT max(tick) FROM rowcast.tick) AS tick,
    (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint AS lsn,
    control.system_identifier AS system,
    current_user AS role
FROM pg_control_system() control;
