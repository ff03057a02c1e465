-- Keys that rise with time, for PostgreSQL 18 and later.
CREATE FUNCTION rowcast.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pg_catalog.uuidv7();
