-- The tables $1 (quoted), each with its partitions or children, and whether these are the table itself: a statement fires the
-- triggers of the relation that it names.
WITH RECURSIVE tree (name, oid) AS (
    SELECT name, to_regclass(name)::oid FROM unnest($1::text[]) AS name
    UNION SELECT tree.name, i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
)
SELECT tree.name, format('%I.%I', n.nspname, c.relname), c.oid = to_regclass(tree.name)::oid
FROM tree JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') ORDER BY c.oid;
