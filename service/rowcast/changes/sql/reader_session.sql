-- The settings of a connection that makes ticks or reads the log: plans are made once, and by index.
SET jit = off;
SET enable_seqscan = off;
SET plan_cache_mode = force_generic_plan;
SET timezone = 'UTC';
SET statement_timeout = 0;
SET default_transaction_isolation = 'read committed';
SET search_path = pg_catalog;
