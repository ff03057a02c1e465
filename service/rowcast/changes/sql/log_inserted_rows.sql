INSERT INTO rowcast.change (resource, op, pk, old, new)
SELECT {resource}, 'I', {pk}, NULL, {new} FROM {rows}
