-- UNHOLD: put held jobs (hold.lua) back where they waited, before what came since; a bounded number at a time.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 the queue that holds  4 at most so many
-- Returns {looked at, put back}; fewer looked at than asked means none are left. Jobs of an endpoint that is no longer
--   registered stay held.
local P, ep, name, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('EXISTS', P .. N.endpoint .. ep) == 0 then return {0, 0} end
local held, later = P .. N.queue .. name, P .. N.scheduled .. name
local looked, back = 0, 0
while looked < limit do
  local id = redis.call('RPOP', held)
  if not id then break end
  looked = looked + 1
  local f = read(P, id)
  if f and f.ep == ep and f.state == 'queued' then
    enqueue(P, id, ep, f.origin, nil, true)
    ring_idle(P, ep)
    back = back + 1
  elseif not f and redis.call('EXISTS', job_key(P, id)) == 1 then
    redis.call('RPUSH', P .. N.parked .. ep, id)
    note(P, ep, 'parked', id, 'not a flashq job; it stays in the broker and will not run')
  end
end
while looked < limit do
  local due = redis.call('ZPOPMIN', later)
  local id = due[1]
  if not id then break end
  looked = looked + 1
  local f = read(P, id)
  if f and f.ep == ep and f.state == 'scheduled' then
    redis.call('ZADD', P .. N.scheduled .. f.origin, due[2], id)
    if f.origin ~= ep then
      redis.call('ZADD', P .. N.endpoint_queues .. ep, rank(P, id), f.origin)
    end
    back = back + 1
  end
end
if looked < limit then redis.call('SREM', P .. N.queues, held) end
wake(P)
return {looked, back}
