-- DELETE: remove a job that has ended, with all that was kept of it.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id
-- Returns 'ok', 'unknown', or the state it is in (only ended jobs are deleted: cancel it first).
local P, id = ARGV[1], ARGV[2]
local f = read(P, id)
if not f then return 'unknown' end
if not TERMINAL[f.state] then return f.state end
redis.call('ZREM', P .. REGISTRY[f.state] .. f.origin, id)
redis.call('DEL', job_key(P, id), P .. N.results .. id, P .. N.logs .. id)
return 'ok'
