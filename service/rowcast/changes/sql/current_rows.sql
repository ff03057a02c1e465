-- The rows of an UPDATE as they are now.
(
    SELECT rowcast_row.* FROM {table} rowcast_row WHERE rowcast_row.{key} IN (
        SELECT rowcast_old.{key} FROM rowcast_old UNION SELECT rowcast_new.{key} FROM rowcast_new
    )
) rowcast_new
