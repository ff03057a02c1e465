-- Tickets for streams, each for one connection within seconds. digest is that of the ticket; sealed is the Authorization
-- header of the caller who got it, encrypted with a key that only the ticket gives.
CREATE TABLE IF NOT EXISTS rowcast.ticket (
    digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    sealed bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS ticket_expires_at ON rowcast.ticket (expires_at);
COMMENT ON TABLE rowcast.ticket IS 'Rowcast: tickets for streams that have not been used';
