INSERT INTO rowcast.change (resource, op, pk, old, new)
SELECT {resource}, 'D', {pk}, {old}, NULL FROM rowcast_old
