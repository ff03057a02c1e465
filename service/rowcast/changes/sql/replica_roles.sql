-- The roles and databases for which session_replication_role is set to replica, so that no trigger runs.
SELECT concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname) FROM pg_db_role_setting s
LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
WHERE 'session_replication_role=replica' = ANY (s.setconfig)
    AND (d.oid IS NULL OR d.datname = current_database()) ORDER BY 1;
