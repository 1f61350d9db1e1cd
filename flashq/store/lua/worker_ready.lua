-- READY: a worker's executor has loaded; failures counted against the endpoint are forgiven.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4… fields and values of its hash
-- Returns {now, 'ok'} or {now, 'gone'}.
local P, ep, worker, at = ARGV[1], ARGV[2], ARGV[3], now()
local key = P .. N.worker .. worker
local w = redis.call('HMGET', key, 'fq_ep', 'death', 'fq_ordered', 'fq_state')
if w[1] ~= ep or w[2] then return {at, 'gone'} end
if #ARGV > 3 then redis.call('HSET', key, unpack(ARGV, 4)) end
if w[4] == 'initializing' then
  note(P, ep, 'worker-ready', worker, w[3] and 'after ' .. int(at - tonumber(w[3])) .. ' ms' or '')
end
redis.call('HDEL', P .. N.endpoint .. ep, 'failures', 'failure', 'failed_at', 'first_failed_at', 'broken')
return {at, 'ok'}
