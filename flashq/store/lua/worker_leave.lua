-- LEAVE: a worker ends (by itself, its host saw it die, or the autoscaler gives it up): what it still held is
-- recovered at once.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4 why  5 '1': it failed before it was ready (counts towards unhealthy)
--       6 '1': and it would fail again (a bad environment, a function that does not load)
--       7 the leader's term, '' for a worker or a host  8 its host, where that is to end what is left of it, or ''
--       9 the signed command for that
-- Returns -1 where it had left before, else how many starts in a row would fail again; DEPOSED.
local P, ep, worker, at = ARGV[1], ARGV[2], ARGV[3], now()
local refusal = deposed(P, ep, ARGV[7])
if refusal then return refusal end
if not redis.call('ZSCORE', P .. N.endpoint_workers .. ep, worker) then return -1 end
close_worker(P, ep, worker, ARGV[4], at)
recover_held(P, ep, worker, ARGV[4], at)
if ARGV[8] ~= '' then command(P, ARGV[8], ARGV[9]) end
local key = P .. N.endpoint .. ep
if ARGV[5] == '1' and redis.call('EXISTS', key) == 1 then
  redis.call('HINCRBY', key, 'failures', 1)
  redis.call('HSETNX', key, 'first_failed_at', at)
  redis.call('HSET', key, 'failure', ARGV[4], 'failed_at', at)
  if ARGV[6] == '1' then redis.call('HINCRBY', key, 'broken', 1) end
end
return tonumber(redis.call('HGET', key, 'broken') or 0)
