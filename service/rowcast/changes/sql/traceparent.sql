-- The trace that a change belongs to: a writer sets rowcast.traceparent, in the form of W3C Trace Context, for its
-- transaction. What has another form is not logged; readers check the digits, because a regular expression here would
-- take a quarter of the time of a logged row. The default is set apart, so that the table is not written again.
ALTER TABLE rowcast.change ADD COLUMN IF NOT EXISTS traceparent text;
ALTER TABLE rowcast.change ALTER COLUMN traceparent SET DEFAULT CASE
    WHEN current_setting('rowcast.traceparent', true) LIKE '00-________________________________-________________-__'
    THEN current_setting('rowcast.traceparent', true) END;
