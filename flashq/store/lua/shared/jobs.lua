-- Which calls of an endpoint were completed, or deleted: none of those runs again, though somebody puts its job back. A call
-- is remembered until it has expired itself, or 120 later ones of its bucket have been. Its bucket and its name there are
-- random bits of the UUID in its job's id: numbers in small sorted sets, which the server keeps in their compact form.
local MOST_SPENT, CALL_LIFE, LONGEST_WAIT, HOUR = 120, 604800000, 5184000000, 3600000
local function spent_place(P, ep, id)
  return P .. N.spent .. ep .. ':' .. string.sub(id, -21, -19), tonumber(string.sub(id, -12), 16) or id
end

local function is_spent(P, ep, id, at)
  local bucket, member = spent_place(P, ep, id)
  local until_ = redis.call('ZSCORE', bucket, member)
  return until_ and tonumber(until_) > at
end

-- `f`: what read gave, which tells how long the call lives; nil where the job's hash is gone.
local function spend(P, ep, id, f, at)
  local bucket, member = spent_place(P, ep, id)
  local begun_by = f and f.gen == 0 and math.max(f.ttl_at, at) or at + LONGEST_WAIT
  local until_ = begun_by + CALL_LIFE + HOUR  -- it was dated by its caller's clock
  redis.call('ZADD', bucket, until_, member)
  redis.call('ZREMRANGEBYRANK', bucket, 0, -MOST_SPENT - 1)
  if type(member) == 'string' or member % 16 == 0 then  -- now and then is often enough
    redis.call('ZREMRANGEBYSCORE', bucket, 0, at)
  end
  if redis.call('PTTL', bucket) < until_ - at then redis.call('PEXPIRE', bucket, until_ - at + HOUR) end
end

-- Nothing waits, runs or is kept on a queue (a sibling that stays so is forgotten).
local function vacant(P, queue)
  return redis.call('EXISTS', P .. N.queue .. queue, P .. N.queue .. queue .. ':intermediate', P .. N.scheduled .. queue,
    P .. N.wip .. queue, P .. N.finished .. queue, P .. N.failed .. queue, P .. N.canceled .. queue) == 0
end

-- Cold ('c': no worker was idle for it) or warm ('w'), as was noted; '' where nothing was: submitted without a delay
-- it is warm then, and its caller was told so at once; otherwise it never came to be run.
local function warmth(f) return f.cold == '1' and 'c' or f.cold == '0' and 'w' or '' end

-- Take a waiting job from where it waits: its queue, its schedule, or where jobs of an earlier run are held.
local function withdraw(P, id, f)
  for _, queue in ipairs({f.origin, f.ep .. HELD}) do
    redis.call('LREM', P .. N.queue .. queue, 1, id)
    redis.call('ZREM', P .. N.scheduled .. queue, id)
  end
end

-- What a run yielded is of no use to anybody: another one begins anew, or nobody is to read it.
local function drop_chunks(P, id) redis.call('DEL', P .. N.chunks .. id) end

-- End a job for good. f holds the fields the caller has read (see read).
-- state: a terminal one; reason: a word for machines; text: for people ('' where there is nothing to say).
-- It must be out of its queue, its schedule and (if leased) its lease set already.
local function conclude(P, id, f, state, reason, text, outcome, ttl_s, at, timing)
  local key = job_key(P, id)
  redis.call('HSET', key, 'fq_state', state, 'status', RQ_STATUS[state], 'ended_at', iso(at), 'fq_ended', at,
    'fq_reason', reason, 'fq_outcome', outcome, 'fq_done', f.fence, 'fq_error', text, 'fq_timing', timing or '')
  if f.timed then redis.call('ZREM', P .. N.ttls .. f.ep, id) end
  if state == 'finished' then
    redis.call('HDEL', key, 'fq_call')
    spend(P, f.ep, id, f, at)
    if f.key then  -- the key outlives the result: a later call with it is told that, and runs nothing
      local idempotency = P .. N.idempotency .. f.ep .. ':' .. f.key
      local value = redis.call('GET', idempotency)
      if value and string.sub(value, 1, #id + 1) == id .. ' ' then
        redis.call('SET', idempotency, value .. ' done', 'KEEPTTL')
      end
    end
  end
  if f.status == 'canceled' then redis.call('ZREM', P .. N.canceled .. f.origin, id) end  -- by a tool of RQ, too late
  redis.call('ZADD', P .. REGISTRY[state] .. f.origin, math.floor(at / 1000) + ttl_s, id)
  if state == 'cancelled' then
    drop_chunks(P, id)
  else
    local results = P .. N.results .. id
    redis.call('XADD', results, 'MAXLEN', 10, '*', 'type', state == 'finished' and 1 or 2, 'worker_name', f.worker or '')
    redis.call('EXPIRE', results, ttl_s)
  end
  redis.call('EXPIRE', key, ttl_s)
  redis.call('HINCRBY', P .. N.stats .. f.ep, state, 1)
  publish(P, id, f.watch, state, f.fence, reason, warmth(f), f.gen, outcome)
end

-- Take a job out of its lease; false where it is in none.
local function unlease(P, id, f)
  if redis.call('ZREM', P .. N.leases .. f.ep, id) == 0 then return false end
  redis.call('ZREM', P .. N.wip .. f.origin, id .. ':' .. f.fence)
  return true
end

-- Put a job that was leased (and is no longer) back on its queue. `since`: it waits anew from then on.
local function put_back(P, id, f, front, since)
  drop_chunks(P, id)
  redis.call('HSET', job_key(P, id), 'fq_state', 'queued', 'status', 'queued', 'worker_name', '', 'started_at', '')
  if since then redis.call('HSET', job_key(P, id), 'fq_ready', since) end
  enqueue(P, id, f.ep, f.origin, nil, front)
  ring_idle(P, f.ep)
end

local FIELDS = {'fq_state', 'fq_fence', 'fq_ep', 'origin', 'fq_watch', 'worker_name', 'fq_cancel', 'fq_done',
  'fq_losses', 'fq_max_losses', 'fq_mode', 'fq_ttl_at', 'fq_failure_ttl', 'fq_attempts', 'status', 'fq_gen',
  'fq_timed', 'fq_began', 'fq_claimed', 'fq_cold', 'fq_key'}
-- Beyond those, what a claim answers with.
local CLAIM_FIELDS = {}
for i = 1, #FIELDS do CLAIM_FIELDS[i] = FIELDS[i] end
local CALL_FIELDS = {'fq_call', 'fq_rev', 'fq_enqueued', 'fq_retries', 'fq_ready'}
for i = 1, #CALL_FIELDS do CLAIM_FIELDS[#FIELDS + i] = CALL_FIELDS[i] end

-- What transitions need to know of a job, or nil where there is none of ours. A hash that makes no sense is none either, so
-- that one that somebody scribbled in stops neither a worker nor a reaper.
local function read(P, id, fields)
  local v = redis.pcall('HMGET', job_key(P, id), unpack(fields or FIELDS))
  if v.err or not STATES[v[1] or ''] or not v[3] or not v[4] then return nil end
  local f = {state = v[1], fence = v[2] or '0', ep = v[3], origin = v[4], watch = v[5], worker = v[6],
    cancel = v[7] == '1' or v[15] == 'canceled',  -- by its caller, or with a tool of RQ
    done = v[8], losses = whole(v[9], 0), max_losses = whole(v[10], 3), mode = v[11],
    ttl_at = whole(v[12], 0), failure_ttl = whole(v[13], 604800), attempts = whole(v[14], 0),
    status = v[15], gen = whole(v[16], 0), timed = v[17] == '1', began = v[18],
    claimed = tonumber(v[19] or 0), cold = v[20], key = v[21],
    call = v[22], rev = v[23], enqueued = whole(v[24], 0), retries = whole(v[25], 0), ready = whole(v[26])}
  if string.find(f.fence, '%D') or not (whole(f.fence) and f.losses and f.max_losses and f.ttl_at and f.failure_ttl and f.attempts and f.gen
    and f.claimed and f.claimed < 1e15 and f.enqueued and f.retries) then return nil end
  if f.origin ~= f.ep and string.sub(f.origin, 1, #f.ep + 2) ~= f.ep .. '--' then return nil end
  return f
end

-- Past its ttl: it had to begin by then. What did begin, and waits to be run again, does not expire, counted or not.
local function expired(f, at) return f.ttl_at > 0 and f.ttl_at <= at and not f.began end

-- Held under this very fence and, where one is named, by this worker: after a failover that lost a claim the new
-- primary gives its fence out again. (Claimed and running jobs are in the lease set, no others are.)
local function live(f, fence, worker)
  return f and (f.state == 'claimed' or f.state == 'running') and f.fence == fence
    and (not worker or worker == '' or f.worker == worker)
end

-- A job that may begin only once has begun, and how that run ended is not known.
local function conclude_once(P, id, f, why, outcome, ttl_s, at)
  local text = why .. '; it had begun, and may not begin again (at_most_once)'
  conclude(P, id, f, 'failed', 'lost_once', text, outcome, ttl_s or f.failure_ttl, at)
  note(P, f.ep, 'job-lost', id, text)
end

-- A run ended without an outcome of its own (its worker is silent, its executor died): cancelled, dead, or back on
-- the queue. `outcome` (signed, or '') is stored if it is dead, for `ttl_s`. Returns what became of it.
local function lose(P, id, f, why, outcome, ttl_s, at)
  unlease(P, id, f)
  if f.cancel then
    conclude(P, id, f, 'cancelled', 'cancelled', 'cancelled; its worker was lost (' .. why .. ')', '', f.failure_ttl, at)
    return 'cancelled'
  end
  if f.state == 'running' then
    local losses = f.losses + 1
    redis.call('HSET', job_key(P, id), 'fq_losses', losses)
    if f.mode == 'at_most_once' then
      conclude_once(P, id, f, why, outcome, ttl_s, at)
      return 'failed'
    end
    if losses >= f.max_losses then
      local text = why .. '; run ' .. int(f.attempts) .. ' time(s), none of which ended'
      conclude(P, id, f, 'failed', 'lost', text, outcome, ttl_s or f.failure_ttl, at)
      note(P, f.ep, 'job-lost', id, text)
      return 'failed'
    end
  end
  put_back(P, id, f, true, f.state == 'running' and at)
  note(P, f.ep, 'job-requeued', id, why)
  return 'queued'
end

-- Begin a claimed job (or record that it began, at `began`): its attempt counts from here.
local function begin(P, id, fence, began, worker)
  local f = read(P, id)
  if not live(f, fence, worker) then return 'stale' end
  if f.state == 'claimed' then
    redis.call('HSET', job_key(P, id), 'fq_state', 'running', 'fq_began', began, 'fq_attempts', f.attempts + 1)
    if f.timed then redis.call('ZREM', P .. N.ttls .. f.ep, id) end
  end
  return f.cancel and 'cancel' or 'ok'
end

-- Store one outcome. o: state ('finished', 'failed', 'cancelled', 'timed_out' or 'retry'), reason, text,
-- outcome (signed bytes), ttl_s, delay_ms (retry), timing (JSON), worker (whose it is).
local function settle(P, id, fence, o, at)
  local f = read(P, id)
  if not f then return 'gone' end
  if f.done == fence and f.fence == fence and (o.worker == '' or f.worker == '' or f.worker == o.worker) then
    return 'ok'
  end
  if not live(f, fence, o.worker) then
    note(P, f.ep, 'stale-outcome', id, 'refused: fence ' .. fence .. ' of ' .. o.worker .. ', now ' .. f.fence .. ' and ' .. f.state)
    return 'stale'
  end
  -- Only what ran returns or is tried again: where its START is still to come, this is it.
  if f.state == 'claimed' and (o.state == 'retry' or o.state == 'finished') then begin(P, id, fence, at, o.worker) end
  unlease(P, id, f)
  if o.reason == 'refused' and f.state == 'running' then redis.call('HINCRBY', job_key(P, id), 'fq_attempts', -1) end
  if f.cancel and o.state ~= 'finished' and o.state ~= 'cancelled' then  -- only a value comes before a cancel
    local text = 'cancelled' .. (o.text ~= '' and '; its run had ended with ' .. o.text or '')
    conclude(P, id, f, 'cancelled', 'cancelled', text, '', f.failure_ttl, at, o.timing)
    return 'ok'
  end
  if o.state ~= 'retry' then
    conclude(P, id, f, o.state, o.reason, o.text, o.outcome, o.ttl_s, at, o.timing)
    return 'ok'
  end
  local key = job_key(P, id)
  local retries = whole(field(P, id, 'fq_retries')) or 0
  redis.call('HSET', key, 'fq_done', fence, 'fq_error', o.text, 'fq_retries', retries + 1)
  redis.call('HINCRBY', P .. N.stats .. f.ep, 'retried', 1)
  if o.delay_ms <= 0 then
    put_back(P, id, f, false, at)
  else
    drop_chunks(P, id)
    redis.call('HSET', key, 'fq_state', 'scheduled', 'status', 'scheduled', 'worker_name', '', 'started_at', '',
      'fq_delay', o.delay_ms)
    redis.call('ZADD', P .. N.scheduled .. f.origin, (at + o.delay_ms) / 1000, id)
  end
  return 'ok'
end

-- A failed, cancelled or timed-out job begins anew: the next generation, its budgets full again.
local function reopen(P, id, f, at)
  drop_chunks(P, id)
  redis.call('PERSIST', job_key(P, id))
  redis.call('HDEL', job_key(P, id), 'fq_cancel', 'fq_outcome', 'fq_reason', 'fq_error', 'fq_done', 'fq_losses',
    'fq_retries', 'fq_timing', 'fq_began', 'fq_ended', 'fq_ttl_at', 'fq_timed', 'fq_cold', 'fq_ready', 'ended_at', 'started_at')
  redis.call('HSET', job_key(P, id), 'fq_state', 'queued', 'status', 'queued', 'fq_attempts', 0,
    'fq_enqueued', at, 'enqueued_at', iso(at), 'worker_name', '', 'fq_gen', f.gen + 1)
  redis.call('ZREM', P .. REGISTRY[f.state] .. f.origin, id)
end

-- Reopen it and put it on its queue.
local function begin_anew(P, id, f, at)
  reopen(P, id, f, at)
  enqueue(P, id, f.ep, f.origin, nil, false)
  redis.call('HSET', job_key(P, id), 'fq_cold', ring_idle(P, f.ep))
end

-- Remove a job that has ended, with all that was kept of it.
local function forget(P, id, f, at)
  redis.call('ZREM', P .. REGISTRY[f.state] .. f.origin, id)
  spend(P, f.ep, id, f, at)
  redis.call('DEL', job_key(P, id), P .. N.results .. id, P .. N.logs .. id, P .. N.chunks .. id)
  if f.key then
    local idempotency = P .. N.idempotency .. f.ep .. ':' .. f.key
    local value = redis.call('GET', idempotency)
    if value and string.sub(value, 1, #id + 1) == id .. ' ' then redis.call('DEL', idempotency) end
  end
end

-- Go through jobs of one failed registry, longest kept first: act(id, f) on those that failed (or timed out) for
-- this reason ('': any) no later than `before`. Returns {how many were looked at, how many were acted on}.
local function each_failed(P, ep, queue, offset, limit, reason, before, act)
  local ids = redis.call('ZRANGE', P .. N.failed .. queue, offset, offset + limit - 1)
  local count = 0
  for _, id in ipairs(ids) do
    local f = read(P, id)
    if f and f.ep == ep and (f.state == 'failed' or f.state == 'timed_out') then
      local v = redis.call('HMGET', job_key(P, id), 'fq_reason', 'fq_ended')
      if (reason == '' or v[1] == reason) and tonumber(v[2] or 0) <= before then
        act(id, f)
        count = count + 1
      end
    end
  end
  return {#ids, count}
end

