-- Whether numbers of changes are assigned in the order of the calls.
SELECT seqcache = 1 AND seqincrement = 1 AND NOT seqcycle
FROM pg_sequence WHERE seqrelid = 'rowcast.change_seq'::regclass;
