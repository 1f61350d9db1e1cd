-- PURGE: cancel what waits on an endpoint's queues (not what runs), jobs of an earlier run that are held there too; a
-- bounded number at a time.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 at most so many
-- Returns how many were cancelled; fewer than asked means none are left.
local P, ep, limit, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), now()
local count, queues = 0, redis.call('ZRANGE', P .. N.endpoint_queues .. ep, 0, -1)
queues[#queues + 1] = ep .. HELD
for _, queue in ipairs(queues) do
  while count < limit do
    local id = redis.call('LPOP', P .. N.queue .. queue)
    if not id then
      local due = redis.call('ZPOPMIN', P .. N.scheduled .. queue)
      id = due[1]
    end
    if not id then break end
    local f = admit(P, ep, id, nil, at)
    if f and (f.state == 'queued' or f.state == 'scheduled') then
      conclude(P, id, f, 'cancelled', 'purged', 'purged from the queue', '', f.failure_ttl, at)
      count = count + 1
    end
  end
end
if count < limit then redis.call('SREM', P .. N.queues, ep .. HELD) end
return count
