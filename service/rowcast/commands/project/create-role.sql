-- The role that the service connects as: no superuser. The image of PostgreSQL runs this file once, when it initializes the
-- database.
\set password `cat /run/credentials/app-password`
CREATE ROLE app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
GRANT CREATE ON DATABASE service TO app;
GRANT CREATE, USAGE ON SCHEMA public TO app;
