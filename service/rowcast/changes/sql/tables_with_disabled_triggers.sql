SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE p.pronamespace = to_regnamespace('rowcast') AND tgenabled NOT IN ('O', 'A') ORDER BY 1;
