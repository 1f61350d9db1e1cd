-- CANCEL: end a waiting job; ask the worker of a running one to stop it.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id
-- Returns 'cancelled' (it ended now), 'requested' (its worker was told), 'unknown', or the terminal state it has.
local P, id, at = ARGV[1], ARGV[2], now()
local f = read(P, id)
if not f then return 'unknown' end
if TERMINAL[f.state] then return f.state end
if f.state == 'queued' or f.state == 'scheduled' then
  withdraw(P, id, f)
  conclude(P, id, f, 'cancelled', 'cancelled', '', '', f.failure_ttl, at)
  return 'cancelled'
end
redis.call('HSET', job_key(P, id), 'fq_cancel', 1)
if f.worker and f.worker ~= '' then ring(P, f.worker, 'cancel:' .. id) end
return 'requested'
