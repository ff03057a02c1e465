INSERT INTO rowcast.change (resource, op, pk, old, new)
SELECT {resource}, 'I', rowcast_new.{key}::text, NULL, {new} FROM {rows}
