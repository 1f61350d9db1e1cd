-- REQUEUE: a job that failed, timed out or was cancelled begins anew, in the next generation.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id
-- Returns 'ok', 'unknown', or the state it is in (which cannot be requeued).
local P, id, at = ARGV[1], ARGV[2], now()
local f = read(P, id)
if not f then return 'unknown' end
if not TERMINAL[f.state] or f.state == 'finished' then return f.state end
begin_anew(P, id, f, at)
return 'ok'
