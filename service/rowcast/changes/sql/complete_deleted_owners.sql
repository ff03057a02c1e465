-- Put removed links into the event of an owner that is deleted: a cascade removes them before that event is logged.
UPDATE rowcast.change c SET old = c.old || jsonb_build_object({field}, l.items) FROM (
    SELECT rowcast_old.{source}::text AS pk, jsonb_agg({element} ORDER BY rowcast_old.{target}) AS items
    FROM rowcast_old
    WHERE NOT EXISTS (SELECT FROM {table} rowcast_row WHERE rowcast_row.{key} = rowcast_old.{source})
    GROUP BY rowcast_old.{source}
) l WHERE c.xid = pg_current_xact_id() AND c.seq > current_setting('rowcast.before_delete')::bigint
    AND c.resource = {resource} AND c.op = 'D' AND c.pk = l.pk
