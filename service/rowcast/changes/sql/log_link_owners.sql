-- Log the {owners} of links that were added or removed as updated, with their lists before and after.
WITH rowcast_owner (source) AS MATERIALIZED ({owners}),
rowcast_is AS MATERIALIZED (
    SELECT rowcast_link.{source} AS source, rowcast_link.{target} AS target FROM {links} rowcast_link
    WHERE rowcast_link.{source} IN (SELECT source FROM rowcast_owner)
),
rowcast_was (source, target) AS MATERIALIZED ({links_before}),
rowcast_doc AS MATERIALIZED (
    SELECT rowcast_row.{key} AS source, rowcast_row.{key}::text AS pk, {row} AS doc
    FROM {table} rowcast_row WHERE rowcast_row.{key} IN (SELECT source FROM rowcast_owner)
)
INSERT INTO rowcast.change (resource, op, pk, old, new)
SELECT {resource}, 'U', rowcast_doc.pk,
    rowcast_doc.doc || jsonb_build_object({field}, coalesce(rowcast_before.items, '[]')),
    rowcast_doc.doc || jsonb_build_object({field}, coalesce(rowcast_after.items, '[]'))
FROM rowcast_doc
LEFT JOIN (
    SELECT rowcast_list.source, jsonb_agg({element} ORDER BY rowcast_list.target) AS items
    FROM rowcast_was rowcast_list GROUP BY 1
) rowcast_before ON rowcast_before.source = rowcast_doc.source
LEFT JOIN (
    SELECT rowcast_list.source, jsonb_agg({element} ORDER BY rowcast_list.target) AS items
    FROM rowcast_is rowcast_list GROUP BY 1
) rowcast_after ON rowcast_after.source = rowcast_doc.source
WHERE rowcast_before.items IS DISTINCT FROM rowcast_after.items
