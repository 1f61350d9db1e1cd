-- HOLD: set aside what waits on an endpoint's queues, so that it is kept and counted but not run (see unhold.lua).
-- The ids move to `<endpoint>--held`, a queue that CLAIM and REAP do not look at; the jobs themselves stay as they are.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 the queue that holds
-- Returns how many jobs wait there now, those of earlier times included.
local P, ep, name = ARGV[1], ARGV[2], ARGV[3]
local held, later = P .. N.queue .. name, P .. N.scheduled .. name
for _, id in ipairs(redis.call('LRANGE', held, 0, -1)) do  -- deleted meanwhile, or changed, with a tool of RQ
  if field(P, id, 'fq_state') ~= 'queued' then redis.call('LREM', held, 0, id) end
end
for _, id in ipairs(redis.call('ZRANGE', later, 0, -1)) do
  if field(P, id, 'fq_state') ~= 'scheduled' then redis.call('ZREM', later, id) end
end
for _, queue in ipairs(redis.call('ZREVRANGE', P .. N.endpoint_queues .. ep, 0, -1)) do
  if queue ~= name then
    local from, due = P .. N.queue .. queue, P .. N.scheduled .. queue
    if redis.call('EXISTS', held) == 0 and redis.call('EXISTS', from) == 1 then
      redis.call('RENAME', from, held)
    else
      while redis.call('LMOVE', from, held, 'LEFT', 'RIGHT') do end
    end
    if redis.call('EXISTS', due) == 1 then
      redis.call('ZUNIONSTORE', later, 2, later, due)
      redis.call('DEL', due)
    end
  end
end
local count = redis.call('LLEN', held) + redis.call('ZCARD', later)
if count > 0 then
  redis.call('SADD', P .. N.queues, held)
  note(P, ep, 'jobs-held', ep, int(count) .. ' unfinished jobs of an earlier run are held')
else
  redis.call('SREM', P .. N.queues, held)
end
return count
