-- One trigger for each table and operation; {transitions} names the statement's rows before and after.
CREATE OR REPLACE TRIGGER {name} AFTER {operation} ON {relation} {transitions}
    FOR EACH STATEMENT EXECUTE FUNCTION rowcast.{function}()
