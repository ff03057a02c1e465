-- The schema of Rowcast: the change log, its ticks and epochs, and API tokens. Created in one transaction, after
-- which uuid7.sql (or uuid7_before_18.sql) adds the function that creates keys.
CREATE SCHEMA IF NOT EXISTS rowcast;
REVOKE ALL ON SCHEMA rowcast FROM PUBLIC;

CREATE TABLE rowcast.version (version int NOT NULL);

-- The key that signs what clients send back, such as cursors.
CREATE TABLE rowcast.secret (single boolean PRIMARY KEY DEFAULT true CHECK (single), key bytea NOT NULL);

-- The histories of this database: a promoted standby, a recovery or a copy begins a new one after base_tick.
CREATE TABLE rowcast.epoch (
    epoch bigint PRIMARY KEY,
    base_tick bigint NOT NULL,
    system_identifier bigint NOT NULL,
    timeline text NOT NULL,
    database oid NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The events of a tick are the changes that its snapshot sees and the snapshot of the tick before does not see.
CREATE TABLE rowcast.tick (
    tick bigint PRIMARY KEY,
    epoch bigint NOT NULL,
    snap pg_snapshot NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The change log. The sequence change_part names the partition that writers fill.
CREATE SEQUENCE rowcast.change_seq;
CREATE SEQUENCE rowcast.change_part MINVALUE 0;
SELECT setval('rowcast.change_part', 0);
CREATE TABLE rowcast.change (
    seq bigint NOT NULL DEFAULT nextval('rowcast.change_seq'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    resource text NOT NULL,
    op "char" NOT NULL,
    pk text,
    old jsonb,
    new jsonb,
    part bigint DEFAULT pg_sequence_last_value('rowcast.change_part')
) PARTITION BY LIST (part);
ALTER SEQUENCE rowcast.change_seq OWNED BY rowcast.change.seq;
ALTER SEQUENCE rowcast.change_part OWNED BY rowcast.change.part;
CREATE INDEX change_order ON rowcast.change (xid, seq);
CREATE TABLE rowcast.change_0 PARTITION OF rowcast.change FOR VALUES IN (0, NULL);
CREATE TABLE rowcast.change_1 PARTITION OF rowcast.change FOR VALUES IN (1);
CREATE TABLE rowcast.change_2 PARTITION OF rowcast.change FOR VALUES IN (2);
CREATE TABLE rowcast.change_3 PARTITION OF rowcast.change FOR VALUES IN (3);
CREATE TABLE rowcast.change_4 PARTITION OF rowcast.change FOR VALUES IN (4);
CREATE TABLE rowcast.change_5 PARTITION OF rowcast.change FOR VALUES IN (5);
CREATE TABLE rowcast.change_6 PARTITION OF rowcast.change FOR VALUES IN (6);
CREATE TABLE rowcast.change_7 PARTITION OF rowcast.change FOR VALUES IN (7);
CREATE TABLE rowcast.change_8 PARTITION OF rowcast.change FOR VALUES IN (8);
CREATE TABLE rowcast.change_9 PARTITION OF rowcast.change FOR VALUES IN (9);
COMMENT ON TABLE rowcast.change IS 'Rowcast: every committed change of a resource, kept for a while';

-- Whether writers wake the ticker.
CREATE SEQUENCE rowcast.gate;

CREATE TABLE rowcast.token (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    user_id text NOT NULL CHECK (user_id <> ''),
    is_staff boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz
);
COMMENT ON TABLE rowcast.token IS 'Rowcast: API tokens; only their SHA-256 digests are stored';
