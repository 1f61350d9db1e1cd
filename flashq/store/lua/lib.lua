-- Shared by every script: time, reading a job, and the moves that several transitions are made of.
-- P is the key prefix with its colon ("rq:"); N and HELD, put before this file by scripts.py, are the names of keys.py.
-- Times are milliseconds of the server's clock. While a library loads, Lua's own functions (unpack, ipairs) are not
-- there: only the bodies of functions may use them.

local micros = 0  -- the microseconds beyond `now`
local function now()
  local t = redis.call('TIME')
  micros = t[2] % 1000
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function int(n) return string.format('%.0f', n) end

-- RQ's timestamp format, from milliseconds (days → civil date after Howard Hinnant's chrono paper).
local iso_of, iso_text = -1, ''
local function iso(ms)
  if ms == iso_of then return iso_text end
  local s = math.floor(ms / 1000)
  local z = math.floor(s / 86400) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local d = doy - math.floor((153 * mp + 2) / 5) + 1
  local m = mp < 10 and mp + 3 or mp - 9
  local y = yoe + era * 400 + (m <= 2 and 1 or 0)
  local r = s % 86400
  iso_of, iso_text = ms, string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d000Z', y, m, d,
    math.floor(r / 3600), math.floor(r % 3600 / 60), r % 60, ms % 1000)
  return iso_text
end

local TERMINAL = {finished = true, failed = true, cancelled = true, timed_out = true}
local REGISTRY = {finished = N.finished, failed = N.failed, cancelled = N.canceled, timed_out = N.failed}
local STATES = {scheduled = true, queued = true, claimed = true, running = true, finished = true, failed = true,
  cancelled = true, timed_out = true}
local RQ_STATUS = {finished = 'finished', failed = 'failed', cancelled = 'canceled', timed_out = 'failed'}

local function job_key(P, id) return P .. N.job .. id end

-- One field of a job's hash; nil where it has none, or is no hash.
local function field(P, id, name)
  local v = redis.pcall('HGET', job_key(P, id), name)
  return type(v) == 'string' and v or nil
end

-- A whole number as the scripts write them, or `default` where there is none; nil: somebody else wrote it.
local function whole(v, default)
  if not v then return default end
  local n = tonumber(v)
  return n and n >= 0 and n < 1e15 and n % 1 == 0 and n or nil
end

local function note(P, ep, kind, subject, text)
  redis.call('XADD', P .. N.events, 'MAXLEN', '~', 5000, '*',
    'endpoint', ep, 'kind', kind, 'subject', subject, 'text', text)
end

local function wake(P)
  if redis.call('LLEN', P .. N.wake) == 0 then redis.call('LPUSH', P .. N.wake, '1') end
end

local function ring(P, worker, token)
  local bell = P .. N.bell .. worker
  redis.call('RPUSH', bell, token)
  redis.call('PEXPIRE', bell, 60000)
end

-- A worker's record goes by itself where nobody closes it; late enough that it outlives a clock that is set ahead.
local RECORD_KEPT = 86400

-- An autoscaler acts under the term that LEAD gave it ("epoch holder"). What it asks for after another took over is
-- refused, and noted once a term. '' stands for whoever acts for itself: a worker, a host, a person. Returns the refusal.
local function deposed(P, ep, term)
  if term == '' then return nil end
  local key = P .. N.leader
  local l = redis.call('HMGET', key, 'epoch', 'holder', 'refused')
  local newest = (l[1] or '0') .. ' ' .. (l[2] or '')
  if term == newest then return nil end
  if l[3] ~= term then
    redis.call('HSET', key, 'refused', term)
    note(P, ep, 'leader-refused', string.match(term, ' (.*)'), 'epoch ' .. string.match(term, '%d+') .. ', now ' .. newest)
  end
  return redis.error_reply('DEPOSED term ' .. term .. ' is over, now ' .. newest)
end

-- Paused: its jobs wait, whatever workers there are.
local function is_paused(P, ep) return redis.call('HGET', P .. N.endpoint .. ep, 'paused') == '1' end

-- 1 where no worker is idle; for a paused endpoint, whose workers are not rung for.
local function none_idle(P, ep) return redis.call('ZCARD', P .. N.idle .. ep) == 0 and 1 or 0 end

-- A job was added: wake the worker most recently idle, or else the autoscaler. Returns 1 where none was idle.
local function ring_idle(P, ep)
  if is_paused(P, ep) then return none_idle(P, ep) end
  local popped = redis.call('ZPOPMAX', P .. N.idle .. ep)
  if popped[1] then
    ring(P, popped[1], 'job')
    return 0
  end
  wake(P)
  return 1
end

-- Tell everybody who waits for a job how it ended. Small outcomes travel with the news. The flags: '1' where the
-- outcome is here, else '0'; then, where it was noted, 'c' or 'w' (see warmth); then which generation ended.
local function publish(P, id, watch, state, fence, reason, warmth, generation, outcome)
  if not watch or watch == '' then return end
  local inline = '0'
  if #outcome <= 32768 then inline = '1' else outcome = '' end
  local message = table.concat({id, state, fence, reason, inline .. warmth .. int(generation), outcome}, '\n')
  for channel in string.gmatch(watch, '[^,]+') do redis.call('PUBLISH', channel, message) end
end

-- The priority that a job's hash names; 0 where that makes no sense.
local function rank(P, id)
  local priority = field(P, id, 'fq_prio')
  return priority and string.find(priority, '^-?%d$') and priority or 0
end

-- Put a waiting job on its queue (front: it was there before). A sibling queue is made known with its rank.
local function enqueue(P, id, ep, origin, priority, front)
  if origin ~= ep then
    redis.call('ZADD', P .. N.endpoint_queues .. ep, priority or rank(P, id), origin)
    redis.call('SADD', P .. N.queues, P .. N.queue .. origin)
  end
  redis.call(front and 'LPUSH' or 'RPUSH', P .. N.queue .. origin, id)
end

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
  if state ~= 'cancelled' then
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
    redis.call('HSET', key, 'fq_state', 'scheduled', 'status', 'scheduled', 'worker_name', '', 'started_at', '',
      'fq_delay', o.delay_ms)
    redis.call('ZADD', P .. N.scheduled .. f.origin, (at + o.delay_ms) / 1000, id)
  end
  return 'ok'
end

-- A failed, cancelled or timed-out job begins anew: the next generation, its budgets full again.
local function reopen(P, id, f, at)
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

-- What a worker holds is found among the newest leases; what does not stand there is recovered when its lease ends.
local MOST_LOOKED_AT, MOST_RECOVERED = 1000, 100

-- What a worker holds by the broker's books and not by its own (a ring it never heard), as CLAIM's rows.
local function unheard(P, ep, worker, known)
  local rows = {}
  for _, id in ipairs(redis.call('ZREVRANGE', P .. N.leases .. ep, 0, MOST_LOOKED_AT - 1)) do
    if not known[id] and field(P, id, 'worker_name') == worker then
      local f = read(P, id, CLAIM_FIELDS)
      if f and live(f, f.fence) then
        rows[#rows + 1] = row(id, f, f.fence, f.state == 'running' and f.attempts or f.attempts + 1)
      end
    end
  end
  return rows
end

-- Jobs ({id, what read gave} each) by when they were claimed, the latest first: each goes back to the front of its
-- queue, so that the one claimed first ends up first.
local function latest_first(held)
  table.sort(held, function(a, b)
    if a[2].claimed ~= b[2].claimed then return a[2].claimed > b[2].claimed end
    return a[1] > b[1]
  end)
  return held
end

-- Recover at once what a worker held, within bounds.
local function recover_held(P, ep, worker, why, at)
  local held = {}
  for _, id in ipairs(redis.call('ZREVRANGE', P .. N.leases .. ep, 0, MOST_LOOKED_AT - 1)) do
    if field(P, id, 'worker_name') == worker then
      local f = read(P, id)
      if live(f, f and f.fence) then held[#held + 1] = {id, f} end
      if #held == MOST_RECOVERED then break end
    end
  end
  for _, h in ipairs(latest_first(held)) do
    lose(P, h[1], h[2], 'its worker ' .. worker .. ' was lost: ' .. why, '', nil, at)
  end
end

-- Put a signed word on a host's list, where a host that is gone does not keep it.
local function command(P, host, word)
  redis.call('RPUSH', P .. N.commands .. host, word)
  redis.call('PEXPIRE', P .. N.commands .. host, 600000)  -- the word itself is good for far less
end

-- The lease of a GPU: its fence (rises with each holder), since when (ms), the worker that holds it ('': none), that
-- one's endpoint and host, and why it is kept from everybody ('': it is not). Nothing where it was never held.
local function gpu_lease(P, uuid)
  local v = redis.call('HGET', P .. N.gpus, uuid)
  if not v then return nil end
  local fence, since, worker, ep, host, why = string.match(v, '^(%d+) (%d+) (%S*) (%S*) (%S*) (.*)$')
  return {fence = tonumber(fence or 0), since = tonumber(since or 0), worker = worker or '', ep = ep or '',
    host = host or '', why = why or ''}
end

local function lease_gpu(P, uuid, fence, at, worker, ep, host, why)
  redis.call('HSET', P .. N.gpus, uuid, int(fence) .. ' ' .. int(at) .. ' ' .. table.concat({worker, ep, host, why}, ' '))
end

-- Whether a worker is on record, and not given up.
local function is_counted(P, worker)
  local w = redis.call('HMGET', P .. N.worker .. worker, 'fq_ep', 'death')
  return w[1] and not w[2]
end

-- Who keeps a worker from a GPU; nil: nobody. One that has ended has its GPUs until its host gives them back, if that
-- does (`frees`) and nobody has seen them free (`seen`).
local function holder(P, uuid, worker, seen)
  local l = gpu_lease(P, uuid)
  if not l or l.worker == worker then return nil end
  if l.worker == '' then return l.why ~= '' and not seen and uuid .. ' is kept from workers: ' .. l.why or nil end
  if not is_counted(P, l.worker) and (seen or redis.call('HGET', P .. N.host .. l.host, 'frees') ~= '1') then return nil end
  return uuid .. ' is held by worker ' .. l.worker
end

-- Lease GPUs (UUIDs with commas between) to a worker: all of them, or none where another has one; then who.
local function hold_gpus(P, uuids, worker, ep, host, at, seen)
  for uuid in string.gmatch(uuids, '[^,]+') do
    local other = holder(P, uuid, worker, seen)
    if other then return other end
  end
  for uuid in string.gmatch(uuids, '[^,]+') do
    local l = gpu_lease(P, uuid)
    if not l or l.worker ~= worker then lease_gpu(P, uuid, (l and l.fence or 0) + 1, at, worker, ep, host, '') end
  end
  return nil
end

-- The value of a field among arguments that are fields and values, from the nth on.
local function argument(args, n, name)
  for i = n, #args, 2 do
    if args[i] == name then return args[i + 1] end
  end
  return nil
end

-- A worker is no more: its record is closed, its place free. Its jobs are recovered apart from it.
local function close_worker(P, ep, worker, why, at)
  local key = P .. N.worker .. worker
  redis.call('ZREM', P .. N.endpoint_workers .. ep, worker)
  redis.call('ZREM', P .. N.idle .. ep, worker)
  redis.call('SREM', P .. N.rq_workers, key)
  redis.call('SREM', P .. N.queue_workers .. ep, key)
  redis.call('DEL', P .. N.bell .. worker)
  if redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'death', iso(at), 'fq_end', why)
    redis.call('EXPIRE', key, 60)
  end
  note(P, ep, 'worker-lost', worker, why)
  wake(P)
end
