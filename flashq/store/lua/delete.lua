-- DELETE: remove a job that has ended, with all that was kept of it but that its call is not to be run again.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id
-- Returns 'ok', 'unknown', or the state it is in (only ended jobs are deleted: cancel it first).
local P, id, at = ARGV[1], ARGV[2], now()
local f = read(P, id)
if not f then return 'unknown' end
if not TERMINAL[f.state] then return f.state end
forget(P, id, f, at)
return 'ok'
