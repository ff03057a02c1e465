-- The answers of committed requests with an Idempotency-Key. key and request are digests: of the caller, the route and the
-- key, and of what must be the same when the request is sent again. headers is null where the answer was not kept.
CREATE TABLE IF NOT EXISTS rowcast.answer (
    key bytea PRIMARY KEY CHECK (octet_length(key) = 32),
    request bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    status smallint,
    headers text,
    body bytea
);
CREATE INDEX IF NOT EXISTS answer_at ON rowcast.answer (at);
COMMENT ON TABLE rowcast.answer IS 'Rowcast: answers of requests with an Idempotency-Key, kept for a while';
