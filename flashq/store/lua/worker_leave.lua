-- LEAVE: a worker ends (by itself, or its host saw it die): what it still held is recovered at once.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4 why  5 '1': it failed before it was ready (counts towards unhealthy)
--       6 '1': and it would fail again (a bad environment, a function that does not load)
-- Returns -1 where it had left before, else how many starts in a row would fail again.
local P, ep, worker, at = ARGV[1], ARGV[2], ARGV[3], now()
if not redis.call('ZSCORE', P .. N.endpoint_workers .. ep, worker) then return -1 end
close_worker(P, ep, worker, ARGV[4], at)
recover_held(P, ep, worker, ARGV[4], at)
local key = P .. N.endpoint .. ep
if ARGV[5] == '1' and redis.call('EXISTS', key) == 1 then
  redis.call('HINCRBY', key, 'failures', 1)
  redis.call('HSETNX', key, 'first_failed_at', at)
  redis.call('HSET', key, 'failure', ARGV[4], 'failed_at', at)
  if ARGV[6] == '1' then redis.call('HINCRBY', key, 'broken', 1) end
end
return tonumber(redis.call('HGET', key, 'broken') or 0)
