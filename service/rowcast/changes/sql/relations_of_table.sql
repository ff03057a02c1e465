-- A table and its partitions or children: a statement fires the triggers of the relation that it names.
WITH RECURSIVE tree (oid) AS (
    SELECT to_regclass($1)::oid
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
)
SELECT format('%I.%I', n.nspname, c.relname) FROM tree JOIN pg_class c USING (oid)
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') ORDER BY c.oid;
