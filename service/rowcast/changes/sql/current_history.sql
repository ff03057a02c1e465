-- What identifies the history of this database. pg_control_checkpoint() would return the timeline of the last
-- checkpoint, which is stale after a promotion.
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
       left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline,
       (SELECT oid FROM pg_database WHERE datname = current_database()) AS database;
