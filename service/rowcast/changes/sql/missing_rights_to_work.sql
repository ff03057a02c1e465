-- The rights that the role lacks to make ticks, read the log and keep it small.
SELECT missing.* FROM to_regnamespace('rowcast') n, LATERAL (
    SELECT string_agg(word, ', ') || ' on rowcast.' || name
    FROM (VALUES ('secret', ARRAY['SELECT']), ('epoch', ARRAY['SELECT', 'INSERT', 'UPDATE']), ('token', ARRAY['SELECT']),
        ('answer', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
        ('ticket', ARRAY['SELECT', 'INSERT', 'DELETE']),
        ('tick', ARRAY['SELECT', 'INSERT', 'DELETE']), ('change', ARRAY['SELECT']), ('change_part', ARRAY['UPDATE']),
        ('change_0', ARRAY['SELECT', 'TRUNCATE']), ('gate', ARRAY['UPDATE'])
    ) AS needed (name, words), unnest(words) word
    WHERE NOT has_table_privilege(to_regclass('rowcast.' || name), word) AND n IS NOT NULL GROUP BY name
) missing;
