-- LEND: all jobs of a worker wait for what they called, so others may have its place; or that is over.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4 '1': they wait
-- Returns 'ok', or 'gone' (this worker was declared lost).
local P, ep, worker = ARGV[1], ARGV[2], ARGV[3]
local key = P .. N.worker .. worker
local w = redis.call('HMGET', key, 'fq_ep', 'death')
if w[1] ~= ep or w[2] then return 'gone' end
if ARGV[4] == '1' then
  redis.call('HSET', key, 'fq_lends', 1)
  wake(P)
else
  redis.call('HDEL', key, 'fq_lends')
end
return 'ok'
