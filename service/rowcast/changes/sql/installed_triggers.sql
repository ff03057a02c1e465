SELECT format('%I.%I', n.nspname, c.relname) AS relation, t.tgname AS name, p.proname AS function
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pronamespace = to_regnamespace('rowcast');
