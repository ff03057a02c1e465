-- A new epoch after tick $1, numbered by the time in microseconds.
INSERT INTO rowcast.epoch (epoch, base_tick, system_identifier, timeline, database)
SELECT greatest(
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, (SELECT max(epoch) + 1 FROM rowcast.epoch)
), $1, $2, $3, $4 RETURNING epoch;
