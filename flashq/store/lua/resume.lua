-- RESUME: what waits may be claimed again. Idle workers are woken for it, and the autoscaler.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint
-- Returns 'ok' (also where it is not paused) or 'unknown'.
local P, ep = ARGV[1], ARGV[2]
local key = P .. N.endpoint .. ep
if redis.call('EXISTS', key) == 0 then return 'unknown' end
if redis.call('HDEL', key, 'paused', 'paused_at') == 0 then return 'ok' end
local queued = 0
for _, queue in ipairs(redis.call('ZRANGE', P .. N.endpoint_queues .. ep, 0, -1)) do
  queued = queued + redis.call('LLEN', P .. N.queue .. queue)
end
for _ = 1, math.min(queued, redis.call('ZCARD', P .. N.idle .. ep)) do ring_idle(P, ep) end
note(P, ep, 'endpoint-resumed', ep, int(queued) .. ' jobs wait')
wake(P)
return 'ok'
