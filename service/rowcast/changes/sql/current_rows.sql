-- The rows of an UPDATE as they are now.
(
    SELECT rowcast_row.* FROM {table} rowcast_row WHERE {key} IN (
        SELECT {old} FROM rowcast_old UNION SELECT {new} FROM rowcast_new
    )
) rowcast_new
