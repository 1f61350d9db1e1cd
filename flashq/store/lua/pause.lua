-- PAUSE: nothing more is claimed of an endpoint. What was claimed goes on, and submits are accepted.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint
-- Returns 'ok' (also where it is paused already) or 'unknown'.
local P, ep, at = ARGV[1], ARGV[2], now()
local key = P .. N.endpoint .. ep
if redis.call('EXISTS', key) == 0 then return 'unknown' end
if redis.call('HGET', key, 'paused') == '1' then return 'ok' end
redis.call('HSET', key, 'paused', 1, 'paused_at', at)
note(P, ep, 'endpoint-paused', ep, '')
wake(P)
return 'ok'
