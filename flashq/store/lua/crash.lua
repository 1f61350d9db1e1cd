-- CRASH: the executor died under a job. It is delivered again within its budget, else it failed.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 fence  4 what happened  5 the signed outcome, stored if it may not run again
--       6 how long that is kept (s)  7 the worker that holds it ('' any)
-- Returns 'queued', 'failed', 'cancelled' (what became of it) or 'stale'.
local P, id, at = ARGV[1], ARGV[2], now()
local f = read(P, id)
if f and f.fence == ARGV[3] and f.done ~= ARGV[3] and f.state == 'queued' then return 'queued' end
if f and f.done == ARGV[3] and TERMINAL[f.state] then return f.state end
if not live(f, ARGV[3], ARGV[7]) then return 'stale' end
return lose(P, id, f, ARGV[4], ARGV[5], tonumber(ARGV[6]), at)
