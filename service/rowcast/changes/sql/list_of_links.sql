-- The list of a many_to_many field in a row of {relation}.
(
    SELECT coalesce(jsonb_agg({element} ORDER BY rowcast_link.{target}), '[]')
    FROM {links} rowcast_link WHERE rowcast_link.{source} = {relation}.{key}
)
