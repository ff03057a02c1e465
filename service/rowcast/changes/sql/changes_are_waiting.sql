WITH last AS MATERIALIZED ({_last_tick}) SELECT {_changes_are_waiting} FROM last;
