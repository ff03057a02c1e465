-- The schema of each of the tables $1 (quoted), by the search path if it is not named; NULL if there is no such table.
SELECT t.name, (
    SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = to_regclass(t.name)
)
FROM unnest($1::text[]) AS t (name);
