DELETE FROM rowcast.ticket WHERE expires_at < clock_timestamp() - interval '1 minute';
