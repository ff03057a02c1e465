-- Keys that rise with time, before PostgreSQL 18: a version 4 UUID whose first 48 bits are replaced by the time in
-- milliseconds, and two more bits by the version.
CREATE FUNCTION rowcast.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(set_bit(set_bit(overlay(
    uuid_send(gen_random_uuid())
    PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
), 52, 1), 53, 1), 'hex')::uuid;
