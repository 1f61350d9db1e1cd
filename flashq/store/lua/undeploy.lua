-- UNDEPLOY: forget an endpoint. Its workers find themselves without a record and drain.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint
-- Returns 'ok', 'unknown', or 'busy' where jobs wait or run (purge or cancel them first).
local P, ep = ARGV[1], ARGV[2]
local key = P .. N.endpoint .. ep
local revision = redis.call('HGET', key, 'revision')
if not revision then return 'unknown' end
if redis.call('ZCARD', P .. N.leases .. ep) > 0 then return 'busy' end
for _, queue in ipairs(redis.call('ZRANGE', P .. N.endpoint_queues .. ep, 0, -1)) do
  if redis.call('LLEN', P .. N.queue .. queue) > 0 then return 'busy' end
  if redis.call('ZCARD', P .. N.scheduled .. queue) > 0 then return 'busy' end
end
redis.call('PEXPIRE', P .. N.revision .. ep .. ':' .. revision, 604800000)
redis.call('DEL', key, P .. N.endpoint_queues .. ep, P .. N.idle .. ep, P .. N.clock .. ep, P .. N.stats .. ep,
  P .. N.endpoint_events .. ep)
redis.call('SREM', P .. N.endpoints, ep)
note(P, ep, 'endpoint-undeployed', ep, '')
wake(P)
return 'ok'
