-- RELEASE: give a claimed or running job back uncounted (drain, or innocent bystander of a killed executor).
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 fence  4 the worker that holds it ('' any)  5 '1': its function may have been entered
-- Returns 'ok', 'cancelled' (its caller wanted it stopped: it ended), 'failed' (it began, and may do so only once) or
--   'stale'.
local P, id, at = ARGV[1], ARGV[2], now()
local f = read(P, id)
if f and f.state == 'queued' and f.fence == ARGV[3] then return 'ok' end
if f and (f.state == 'cancelled' or f.state == 'failed') and f.done == ARGV[3] then return f.state end
if not live(f, ARGV[3], ARGV[4]) then return 'stale' end
unlease(P, id, f)
if f.cancel then
  conclude(P, id, f, 'cancelled', 'cancelled', '', '', f.failure_ttl, at)
  return 'cancelled'
end
if f.mode == 'at_most_once' and f.state == 'running' and ARGV[5] == '1' then
  conclude_once(P, id, f, 'its worker had to give it up', '', nil, at)
  return 'failed'
end
if f.state == 'running' then redis.call('HSET', job_key(P, id), 'fq_attempts', math.max(0, f.attempts - 1)) end
put_back(P, id, f, true)
return 'ok'
