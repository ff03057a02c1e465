-- The position that continues a statement on a standby, whose pg_current_snapshot() leaves out running transactions: after
-- the newest tick that the statement sees, and after the transactions before the oldest that ran.
(SELECT tick.epoch || '-' || tick.tick || '-0~' || oldest.xid || ':' || oldest.xid || ':'
 FROM (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xid) oldest, rowcast.tick ORDER BY tick.tick DESC LIMIT 1)
