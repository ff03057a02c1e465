-- Lock the owners of changed links; begins with SELECT or, in plpgsql, PERFORM.
{select} FROM {table} rowcast_row WHERE rowcast_row.{key} IN ({owners})
    ORDER BY rowcast_row.{key} FOR NO KEY UPDATE
