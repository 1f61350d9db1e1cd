-- OBSERVE: everything the autoscaler wants to know of one endpoint, at one instant. Writes nothing.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 how many of the oldest waiting jobs to date
-- Queued jobs are counted that workers are to be started for.
-- Returns {now, record (flat), stats (flat), queued, {since when (ms) the oldest wait}, scheduled, {began (ms) of those running},
--   {{worker, heartbeat ends (ms), record (flat)}…}, how many of the queued were called by jobs}
local P, ep, most, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), now()
local waits, began, workers, queued, scheduled, nested = {}, {}, {}, 0, 0, 0
local queues = redis.call('ZREVRANGE', P .. N.endpoint_queues .. ep, 0, -1, 'WITHSCORES')
for i = 1, #queues, 2 do
  local queue, length = queues[i], redis.call('LLEN', P .. N.queue .. queues[i])
  local counts = queues[i + 1] ~= UNHURRIED
  if counts then queued = queued + length end
  if queues[i + 1] == NESTED then nested = nested + length end
  scheduled = scheduled + redis.call('ZCARD', P .. N.scheduled .. queue)
  if counts and #waits < most then
    for _, id in ipairs(redis.call('LRANGE', P .. N.queue .. queue, 0, most - #waits - 1)) do
      local v = redis.pcall('HMGET', job_key(P, id), 'fq_ready', 'fq_enqueued')
      if not v.err then waits[#waits + 1] = whole(v[1]) or whole(v[2]) end
    end
  end
end
for _, id in ipairs(redis.call('ZRANGE', P .. N.leases .. ep, 0, 999)) do
  began[#began + 1] = whole(field(P, id, 'fq_began')) or tonumber(string.match(field(P, id, 'fq_claimed') or '0', '^%d+')) or 0
end
local members = redis.call('ZRANGE', P .. N.endpoint_workers .. ep, 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  workers[#workers + 1] = {members[i], members[i + 1], redis.call('HGETALL', P .. N.worker .. members[i])}
end
return {at, redis.call('HGETALL', P .. N.endpoint .. ep), redis.call('HGETALL', P .. N.stats .. ep), queued, waits,
  scheduled, began, workers, nested}
