-- The function that a trigger runs; {body} is quoted.
CREATE OR REPLACE FUNCTION rowcast.{function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO, MDY'
    SET intervalstyle = 'iso_8601'
    SET extra_float_digits = 1
AS {body}
