-- The schema in which each of the tables $1 is found by the search path; NULL if there is none.
SELECT t.name, (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = to_regclass(quote_ident(t.name)))
FROM unnest($1::text[]) AS t (name);
