-- What CLAIM answers with for one job; attempt: the number that this run of it has.
local function row(id, f, fence, attempt)
  return {id, fence, f.call or '', f.rev or '', f.gen, attempt, f.losses, f.ready or f.enqueued, f.cold or '0', f.retries}
end

-- The job that an id found on a queue of this endpoint stands for, or nil: it was deleted, or is none of this
-- endpoint's and is parked. What tools of RQ did to it is made good: requeued, promoted or shown as it is not.
local function admit(P, ep, id, fields, at)
  local f = string.find(id, '^[%w_-]+$') and read(P, id, fields)  -- ids are RQ's: letters, digits, - and _
  if not f or f.ep ~= ep then
    -- A worker whose user may see its own endpoint's keys alone is refused a look: then it is there as well.
    if redis.pcall('EXISTS', job_key(P, id)) ~= 0 then
      redis.call('RPUSH', P .. N.parked .. ep, id)
      note(P, ep, 'parked', id, f and 'belongs to endpoint ' .. f.ep
        or 'not a flashq job; it stays in the broker and will not run')
    end
    return nil
  end
  if TERMINAL[f.state] and f.state ~= 'finished' and f.status == 'queued' then
    reopen(P, id, f, at)
    note(P, ep, 'job-reopened', id, 'requeued with a tool of RQ')
    return read(P, id, fields)
  end
  if f.state == 'scheduled' and f.status == 'queued' then
    redis.call('ZREM', P .. N.scheduled .. f.origin, id)
    redis.call('HSET', job_key(P, id), 'fq_state', 'queued')
    f.state = 'queued'
  elseif TERMINAL[f.state] then
    redis.call('HSET', job_key(P, id), 'status', RQ_STATUS[f.state])
  end
  return f
end

-- Of queues of one rank the one whose first job was submitted first, so that none starves; nil: all are empty.
local function eldest(P, queues)
  local oldest, age = nil, math.huge
  for _, queue in ipairs(queues) do
    local id = redis.call('LINDEX', P .. N.queue .. queue, 0)
    if id then
      local since = whole(field(P, id, 'fq_enqueued')) or 0  -- none of ours: off with it
      if since <= age then oldest, age = queue, since end
    end
  end
  return oldest
end

local REPLAYED = 'refused: this call was completed or deleted before, and somebody put it back'

-- Those of some queues whose first job is of another revision than this one.
local function without(P, queues, revision)
  local others = {}
  for _, queue in ipairs(queues) do
    local id = redis.call('LINDEX', P .. N.queue .. queue, 0)
    if id and field(P, id, 'fq_rev') ~= revision then others[#others + 1] = queue end
  end
  return others
end

-- Take up to `count` jobs off the endpoint's queues for a worker; the first `start` of them begin at once.
-- `but`: not jobs of this revision; a queue where one is first waits for another worker.
local function take(P, ep, worker, count, lease_ms, start, at, but)
  local rows, popped = {}, 0
  local queues = redis.call('ZREVRANGE', P .. N.endpoint_queues .. ep, 0, -1, 'WITHSCORES')
  local next_rank = 1
  while queues[next_rank] and #rows < count do
    local rank, score = {}, queues[next_rank + 1]
    while queues[next_rank + 1] == score do
      rank[#rank + 1] = queues[next_rank]
      next_rank = next_rank + 2
    end
    while #rows < count and popped < 1000 do  -- ids of deleted jobs are skipped, within bounds
      popped = popped + 1
      local from = but and without(P, rank, but) or rank
      local queue = from[2] and eldest(P, from) or from[1]
      if not queue then break end
      local id = redis.call('LPOP', P .. N.queue .. queue)
      if not id then break end
      local f = admit(P, ep, id, CLAIM_FIELDS, at)
      if f and f.state == 'queued' then
        if f.cancel then
          conclude(P, id, f, 'cancelled', 'cancelled', 'cancelled with a tool of RQ', '', f.failure_ttl, at)
        elseif expired(f, at) then
          conclude(P, id, f, 'timed_out', 'expired', 'waited past its ttl', '', f.failure_ttl, at)
        elseif is_spent(P, ep, id, at) then
          conclude(P, id, f, 'failed', 'refused', REPLAYED, '', f.failure_ttl, at)
          note(P, ep, 'call-replayed', id, REPLAYED)
        else
          local fence = int(tonumber(f.fence) + 1)
          local claimed = string.format('%.3f', at + (micros + #rows) / 1000)  -- finer than ms: it tells the order
          if #rows < start then
            redis.call('HSET', job_key(P, id), 'fq_state', 'running', 'status', 'started', 'fq_fence', fence,
              'worker_name', worker, 'started_at', iso(at), 'fq_claimed', claimed,
              'fq_attempts', f.attempts + 1, 'fq_began', at)
            if f.timed then redis.call('ZREM', P .. N.ttls .. ep, id) end
          else
            redis.call('HSET', job_key(P, id), 'fq_state', 'claimed', 'status', 'started', 'fq_fence', fence,
              'worker_name', worker, 'started_at', iso(at), 'fq_claimed', claimed)
          end
          redis.call('ZADD', P .. N.leases .. ep, at + lease_ms, id)
          redis.call('ZADD', P .. N.wip .. f.origin, '+inf', id .. ':' .. fence)
          rows[#rows + 1] = row(id, f, fence, f.attempts + 1)
        end
      end
    end
  end
  return rows
end

-- Claim for a worker, remembering the answer under a nonce, so that a resent claim gets the same one.
-- `room`: how many jobs it could begin now; where it got fewer it stands among the idle from here on.
-- Returns {verdict, rows}: 'ok', 'drain' (take nothing more), 'gone' (this worker was declared lost).
local function claim(P, ep, worker, nonce, count, lease_ms, start, holding, room, at)
  local key = P .. N.worker .. worker
  local w = redis.call('HMGET', key, 'fq_nonce', 'fq_last', 'fq_drain', 'fq_ep', 'fq_state', 'death', 'fq_room', 'fq_jobs',
    'fq_needs')
  if w[4] ~= ep or w[6] then return {'gone', {}} end
  -- Whoever asks is there: else one that could not renew for most of a lease would be closed just after it has begun
  -- what it is given here.
  redis.call('ZADD', P .. N.endpoint_workers .. ep, 'XX', 'GT', at + lease_ms, worker)
  if w[1] == nonce then
    local rows = {}
    for id, fence in string.gmatch(w[2] or '', '([^ ]+):(%d+)') do
      local f = read(P, id, CLAIM_FIELDS)
      if live(f, fence) then
        rows[#rows + 1] = row(id, f, fence, f.state == 'running' and f.attempts or f.attempts + 1)
      end
    end
    return {'ok', rows}
  end
  local draining = w[3] == '1'
  local rows, unfit = {}, false
  if count > 0 and not draining then
    local e = redis.call('HMGET', P .. N.endpoint .. ep, 'revision', 'paused', 'needs')
    draining = not e[1]  -- undeployed
    -- Ordered when the endpoint wanted another GPU, or another size: what is of the current revision is not for it.
    unfit = w[9] and e[3] and w[9] ~= e[3]
    if e[1] and e[2] ~= '1' then rows = take(P, ep, worker, count, lease_ms, start, at, unfit and e[1]) end
  end
  local jobs = int(holding + #rows)
  local state = jobs ~= '0' and 'running' or 'idle'
  if #rows > 0 then  -- an empty answer need not be remembered: asking again is as good
    local last = {}
    for i, r in ipairs(rows) do last[i] = r[1] .. ':' .. r[2] end
    redis.call('HSET', key, 'fq_nonce', nonce, 'fq_last', table.concat(last, ' '))
  end
  if state ~= w[5] then
    redis.call('HSET', key, 'fq_state', state, 'fq_since', at, 'state', state == 'idle' and 'idle' or 'busy')
  end
  if jobs ~= w[8] then redis.call('HSET', key, 'fq_jobs', jobs) end
  local left = room - #rows
  if left > 0 and not draining and not unfit and redis.call('LLEN', P .. N.bell .. worker) == 0 then  -- no ring is on its way to it
    redis.call('ZADD', P .. N.idle .. ep, 'NX', at, worker)  -- looking again makes it no younger
    if int(left) ~= (w[7] or '1') then redis.call('HSET', key, 'fq_room', left) end
  else
    redis.call('ZREM', P .. N.idle .. ep, worker)
  end
  return {draining and 'drain' or 'ok', rows}
end

-- Values as one string, each with its length before it, so that any bytes may be in them.
local function framed(values)
  local parts = {}
  for i, value in ipairs(values) do
    if type(value) == 'number' then value = int(value) end
    parts[i] = #value .. ':' .. value
  end
  return table.concat(parts)
end

-- A job was submitted: the worker most recently idle gets it with the ring, claimed (its START follows), so that no
-- round trip is lost; a large one, or for a worker that does not take them so, is only rung for. Returns 1 where
-- no worker was idle: then the autoscaler is woken.
local MOST_HANDED = 32768
local function hand_over(P, ep, id, size, at)
  local popped = redis.call('ZPOPMAX', P .. N.idle .. ep)
  local worker = popped[1]
  if not worker then
    wake(P)
    return 1
  end
  local key = P .. N.worker .. worker
  local w = redis.call('HMGET', key, 'fq_takes', 'fq_room', 'fq_jobs')
  local rows = {}
  if w[1] and size <= MOST_HANDED then rows = take(P, ep, worker, 1, tonumber(w[1]), 0, at) end
  if not rows[1] then
    ring(P, worker, 'job')
    return 0
  end
  local room = tonumber(w[2] or 1) - 1
  redis.call('HSET', key, 'fq_state', 'running', 'fq_since', at, 'state', 'busy', 'fq_jobs', tonumber(w[3] or 0) + 1)
  if room > 0 then
    redis.call('HSET', key, 'fq_room', room)
    redis.call('ZADD', P .. N.idle .. ep, popped[2], worker)
  end
  ring(P, worker, 'claim:' .. framed(rows[1]))
  if rows[1][1] ~= id then return ring_idle(P, ep) end  -- an older one was first: this one is still to be heard
  return 0
end

