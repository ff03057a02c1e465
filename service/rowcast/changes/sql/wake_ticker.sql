-- Wake the ticker if it sleeps: while it is awake the gate is shut. (Before it is set the first time, it is open.)
IF pg_sequence_last_value('rowcast.gate') IS DISTINCT FROM {shut} THEN
    PERFORM pg_notify('{channel}', '');
END IF;
