-- Wake the ticker if it sleeps: while it is awake it holds the gate, so a writer that can get this lock notifies.
IF pg_try_advisory_lock_shared({namespace}, {gate}) THEN
    PERFORM pg_advisory_unlock_shared({namespace}, {gate});
    PERFORM pg_notify('{channel}', '');
END IF;
