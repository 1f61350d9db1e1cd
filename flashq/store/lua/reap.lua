-- REAP: recover one endpoint's jobs and workers from whatever stopped talking. No lock, bounded, idempotent; every
-- worker of the endpoint and the autoscaler run it about once a second.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 at most so many jobs of each kind  4 lease (ms)  5 nothing is done within so long (ms)
--       after another, or 20 ms where that one left something undone: so however many reap, most of the time is others'
-- Returns {jobs recovered, workers lost, jobs expired, jobs promoted, jobs ended by a tool of RQ and taken back,
--   1 where something is left undone, for whoever did this to go on with soon}.
--
-- After a silence of everybody (the broker was down, or its clock jumped) leases are spared for one lease's time,
-- so that workers who live can renew them: a grace, not a mass reaping.

-- Take back what stock RQ did to jobs of ours on one queue: a stray `rq worker` fails them, a tool cancels them.
local function adopt(P, ep, queue, at)
  local count = 0
  local function waits(f) return f and f.ep == ep and (f.state == 'queued' or f.state == 'scheduled') end
  local function back(id, f, why)
    redis.call('ZREM', P .. N.failed .. queue, id)
    redis.call('PERSIST', job_key(P, id))
    redis.call('DEL', P .. N.results .. id)
    redis.call('HSET', job_key(P, id), 'fq_state', 'queued', 'status', 'queued', 'worker_name', '', 'started_at', '',
      'ended_at', '')
    redis.call('ZREM', P .. N.scheduled .. queue, id)
    enqueue(P, id, ep, queue, nil, true)
    ring_idle(P, ep)
    note(P, ep, 'job-adopted', id, why)
    count = count + 1
  end
  for _, id in ipairs(redis.call('ZREVRANGE', P .. N.failed .. queue, 0, 99)) do
    local f = read(P, id)
    if waits(f) and f.status == 'failed' then
      back(id, f, 'failed by a stray rq worker ' .. (f.worker or ''))
    end
  end
  for _, id in ipairs(redis.call('ZREVRANGE', P .. N.canceled .. queue, 0, 99)) do
    local f = read(P, id)
    if waits(f) and f.status == 'canceled' then
      conclude(P, id, f, 'cancelled', 'cancelled', 'cancelled with a tool of RQ', '', f.failure_ttl, at)
      count = count + 1
    end
  end
  -- Popped by a stock worker that then died: in its intermediate list, or begun under an RQ execution that ended.
  for _, id in ipairs(redis.call('LRANGE', P .. N.queue .. queue .. ':intermediate', 0, 99)) do
    local f = read(P, id)
    if waits(f) and f.status == 'queued' then
      redis.call('LREM', P .. N.queue .. queue .. ':intermediate', 0, id)
      back(id, f, 'popped by a stray rq worker')
    end
  end
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', P .. N.wip .. queue, 0, at / 1000, 'LIMIT', 0, 100)) do
    local id = string.match(entry, '^([^:]+)')
    local f = id and read(P, id)
    redis.call('ZREM', P .. N.wip .. queue, entry)
    if waits(f) and f.status == 'started' then
      back(id, f, 'begun by a stray rq worker that died')
    end
  end
  return count
end

-- Leased jobs whose hash was deleted with a tool of RQ: nothing else tells where their mirror stands.
local function unmirror(P, queues, gone)
  for _, queue in ipairs(queues) do
    for _, entry in ipairs(redis.call('ZRANGE', P .. N.wip .. queue, 0, 999)) do
      if gone[string.match(entry, '^([^:]+)') or ''] then redis.call('ZREM', P .. N.wip .. queue, entry) end
    end
  end
end

-- A worker fell silent. Where its host has missed a beat by now (they come every third of a lease) nothing is placed
-- there until it is heard of again: else its own lease, which may end seconds later, would draw the replacement.
local function suspect(P, worker, lease, at)
  local host = redis.call('HGET', P .. N.worker .. worker, 'fq_host')
  local heard_until = host and redis.call('ZSCORE', P .. N.hosts, host)
  if heard_until and heard_until - at <= lease / 2 then redis.call('ZADD', P .. N.hosts, 'XX', 'LT', at, host) end
end

-- The clock was set back: no job waits longer for its time than it was to. Those last in line were planned while the
-- clock was ahead.
local function advance_due(P, queue, at)
  local planned = redis.call('ZREVRANGE', P .. N.scheduled .. queue, 0, 999, 'WITHSCORES')
  for i = 1, #planned, 2 do
    local delay = whole(field(P, planned[i], 'fq_delay'))
    if delay and tonumber(planned[i + 1]) * 1000 > at + delay then
      redis.call('ZADD', P .. N.scheduled .. queue, (at + delay) / 1000, planned[i])
    end
  end
end

local P, ep, limit, lease, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), now()
local clock = P .. N.clock .. ep
local c = redis.call('HMGET', clock, 'seen', 'spared', 'deep', 'more')
local seen, spared = tonumber(c[1] or at), tonumber(c[2] or 0)
local pause = tonumber(ARGV[5])
if c[4] then pause = math.min(pause, 20) end
if c[1] and at >= seen and at - seen < pause then return {0, 0, 0, 0, 0, 0} end
local known = redis.call('EXISTS', P .. N.endpoint .. ep) == 1  -- an undeployed one is only cleared of its workers
if at < seen - 1000 or at > seen + 5000 then
  spared = at + lease
  redis.call('HSET', clock, 'spared', spared)
end
if at < seen - 1000 then
  for _, kind in ipairs({N.leases, N.endpoint_workers}) do  -- a clock set back: nothing may live for hours
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. kind .. ep, at + 2 * lease, '+inf', 'LIMIT', 0, 1000)) do
      redis.call('ZADD', P .. kind .. ep, at + lease, member)
    end
  end
end
if known and (at ~= seen or not c[1]) then redis.call('HSET', clock, 'seen', at) end

local queues = redis.call('ZRANGE', P .. N.endpoint_queues .. ep, 0, -1)
if at < seen - 1000 then
  for _, queue in ipairs(queues) do advance_due(P, queue, at) end
end
local recovered, lost, ended, promoted, adopted = 0, 0, 0, 0, 0
if at >= spared or spared > at + 2 * lease then
  local silent, gone = {}, nil  -- a lost worker's leases end with it: they were renewed together, or claimed since
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. N.endpoint_workers .. ep, 0, at, 'LIMIT', 0, limit)) do
    suspect(P, worker, lease, at)
    close_worker(P, ep, worker, 'silent for a lease', at)
    lost = lost + 1
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. N.leases .. ep, 0, at, 'LIMIT', 0, limit)) do
    local f = read(P, id)
    if live(f, f and f.fence) then
      silent[#silent + 1] = {id, f}
    else
      redis.call('ZREM', P .. N.leases .. ep, id)
      if not f then
        gone = gone or {}
        gone[id] = true
      end
    end
    recovered = recovered + 1
  end
  if gone then unmirror(P, queues, gone) end
  for _, h in ipairs(latest_first(silent)) do
    lose(P, h[1], h[2], 'its worker ' .. (h[2].worker or '?') .. ' was silent for a lease', '', nil, at)
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. N.ttls .. ep, 0, at, 'LIMIT', 0, limit)) do
  local f = read(P, id)
  if f and (f.state == 'queued' or f.state == 'scheduled') and expired(f, at) then
    withdraw(P, id, f)
    conclude(P, id, f, 'timed_out', 'expired', 'waited past its ttl', '', f.failure_ttl, at)
    ended = ended + 1
  end
  if not f or f.state ~= 'claimed' then redis.call('ZREM', P .. N.ttls .. ep, id) end  -- it may come back unbegun
end
-- Jobs with the endpoint's own ttl expire in the order they came; between them may stand some that follow no order.
for _, queue in ipairs(queues) do
  local place = 0
  for _ = 1, limit do
    local id = redis.call('LINDEX', P .. N.queue .. queue, place)
    if not id then break end
    local f = read(P, id)
    if f and f.state == 'queued' and expired(f, at) then
      redis.call('LREM', P .. N.queue .. queue, 1, id)
      conclude(P, id, f, 'timed_out', 'expired', 'waited past its ttl', '', f.failure_ttl, at)
      ended = ended + 1
    elseif not f or f.state ~= 'queued' or f.timed or f.began then
      place = place + 1
    else
      break
    end
  end
end
for _, queue in ipairs(queues) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. N.scheduled .. queue, 0, at / 1000, 'LIMIT', 0, limit)) do
    redis.call('ZREM', P .. N.scheduled .. queue, id)
    local f = read(P, id)
    if f and f.ep == ep and f.state == 'scheduled' then
      enqueue(P, id, ep, f.origin, nil, false)
      redis.call('HSET', job_key(P, id), 'fq_state', 'queued', 'status', 'queued', 'enqueued_at', iso(at), 'fq_ready', at)
      local cold = ring_idle(P, ep)
      if not f.began then redis.call('HSET', job_key(P, id), 'fq_cold', cold) end  -- of a retry the first run tells
      promoted = promoted + 1
    end
  end
end
for _, queue in ipairs(queues) do  -- names of ended jobs go with the jobs (RQ's own clean-up may never run)
  for _, registry in ipairs({N.finished, N.failed, N.canceled}) do
    local key = P .. registry .. queue
    local gone = redis.call('ZCOUNT', key, '-inf', at / 1000 - 2)
    if gone > 0 then redis.call('ZREMRANGEBYRANK', key, 0, math.min(gone, 5000) - 1) end
  end
end
-- What stray stock workers and tools of RQ left: every five seconds, the newest entries of each registry.
local deep = tonumber(c[3] or 0)
if known and (at >= deep or deep > at + 5000) then
  redis.call('HSET', clock, 'deep', at + 5000)
  for _, queue in ipairs(queues) do
    adopted = adopted + adopt(P, ep, queue, at)
    if queue ~= ep and vacant(P, queue) then
      redis.call('ZREM', P .. N.endpoint_queues .. ep, queue)
      redis.call('SREM', P .. N.queues, P .. N.queue .. queue)
    end
  end
end
local more = recovered >= limit or lost >= limit or ended >= limit or promoted >= limit
if known and more and not c[4] then redis.call('HSET', clock, 'more', 1) end
if c[4] and not more then redis.call('HDEL', clock, 'more') end
return {recovered, lost, ended, promoted, adopted, more and 1 or 0}
