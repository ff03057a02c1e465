INSERT INTO rowcast.change (resource, op, pk, old, new)
SELECT {resource}, 'D', rowcast_old.{key}::text, {old}, NULL FROM rowcast_old
