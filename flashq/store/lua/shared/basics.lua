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
  if ep ~= '' and redis.call('EXISTS', P .. N.endpoint .. ep) == 1 then
    redis.call('XADD', P .. N.endpoint_events .. ep, 'MAXLEN', '~', 1000, '*', 'kind', kind, 'subject', subject, 'text', text)
  end
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

-- What an endpoint's record said before its last update: what a rollback goes back to.
local function keep_previous(key, revision, environment, resources, spec, needs)
  redis.call('HSET', key, 'previous_revision', revision, 'previous_environment', environment or '',
    'previous_resources', resources or '', 'previous_spec', spec or '', 'previous_needs', needs or '')
end

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

-- The priority of the calls that jobs make: above every other, since a job that waits for one holds its place.
local NESTED = '10'
-- And that of jobs for which no worker is started: those that there are take them when there is nothing else.
local UNHURRIED = '-10'

-- The priority that a job's hash names; 0 where that makes no sense.
local function rank(P, id)
  local priority = field(P, id, 'fq_prio')
  return priority and string.find(priority, '^-?%d%d?$') and priority or 0
end

-- Put a waiting job on its queue (front: it was there before). A sibling queue is made known with its rank.
local function enqueue(P, id, ep, origin, priority, front)
  if origin ~= ep then
    redis.call('ZADD', P .. N.endpoint_queues .. ep, priority or rank(P, id), origin)
    redis.call('SADD', P .. N.queues, P .. N.queue .. origin)
  end
  redis.call(front and 'LPUSH' or 'RPUSH', P .. N.queue .. origin, id)
end

