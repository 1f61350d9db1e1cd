-- SUBMIT: one call becomes a job on its endpoint's queue. Resending it changes nothing.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 endpoint  3 job id  4 revision  5 queue if the revision is current  6 queue otherwise
--       7 priority  8 delay (ms)  9 ttl (ms from the end of the delay, 0 none)  10 most jobs that may wait (0 any)
--       11 idempotency key (a digest, '' none)  12 what the key stands for: "target payload", digests, the payload '-'
--       where it cannot be compared  13 how long it is remembered (ms)  14 the waiting client's channel
--       15 description  16 RQ's data field  17 the signed call  18 '1': its ttl is its own, so its place in the queue
--       does not tell when it expires  19… further fields and values of the hash
-- Returns {verdict, detail, now, 1 where the revision is the current one}; verdict: 'ok' (detail 1: cold, 0: an idle
--   worker has it, '': it is delayed, and time will tell), 'dup' (detail: its state), 'hit' (detail: the job the key
--   stands for), 'conflict' (the same), 'spent' (the same: it completed, and is kept no longer), 'full' (detail: how
--   many wait), 'unregistered' (no such endpoint or revision: register and submit again).
local P, ep, id, revision, at = ARGV[1], ARGV[2], ARGV[3], ARGV[4], now()
local key = P .. N.job .. id
local known = redis.call('HGET', key, 'fq_state')
if known then return {'dup', known, at, 1} end
if is_spent(P, ep, id, at) then return {'dup', 'finished', at, 1} end  -- sent again after it was run and forgotten
local record = redis.call('HMGET', P .. N.endpoint .. ep, 'revision', 'paused')
local current = record[1]
if not current then return {'unregistered', '', at, 0} end
local queue = ARGV[5]
if current ~= revision then
  if redis.call('PEXPIRE', P .. N.revision .. ep .. ':' .. revision, 604800000) == 0 then
    return {'unregistered', '', at, 0}
  end
  queue = ARGV[6]
end
-- The job that an idempotency key stands for. A job that ended without a value leaves it free, unless it may begin
-- only once and has; one that completed holds it for as long as it is remembered, kept or not.
local idempotency = ARGV[11] ~= '' and P .. N.idempotency .. ep .. ':' .. ARGV[11]
local old = idempotency and redis.call('GET', idempotency)
if old then
  local job, target, payload, done = string.match(old .. ' ', '^([^ ]+) ([^ ]*) ?([^ ]*) ?([^ ]*)')
  local my_target, my_payload = string.match(ARGV[12], '^([^ ]+) ([^ ]+)$')
  local same = payload == ''  -- written by an earlier version, which compared nothing
    or target == my_target and (payload == my_payload or payload == '-' or my_payload == '-')
  local f = read(P, job)
  local free = not f and done == ''
  if f and TERMINAL[f.state] and f.state ~= 'finished' then free = f.mode ~= 'at_most_once' or not f.began end
  if not free then return {not same and 'conflict' or f and 'hit' or 'spent', job, at, 1} end
end
local bound = tonumber(ARGV[10])
if bound > 0 then
  local count = 0
  for _, name in ipairs(redis.call('ZRANGE', P .. N.endpoint_queues .. ep, 0, -1)) do
    count = count + redis.call('LLEN', P .. N.queue .. name) + redis.call('ZCARD', P .. N.scheduled .. name)
  end
  if count >= bound then return {'full', count, at, 1} end
end
local delay, ttl = tonumber(ARGV[8]), tonumber(ARGV[9])
local state = delay > 0 and 'scheduled' or 'queued'
local stamp = iso(at)
local fields = {'fq_state', state, 'status', state, 'created_at', stamp, 'enqueued_at', stamp, 'origin', queue,
  'description', ARGV[15], 'data', ARGV[16], 'fq_ep', ep, 'fq_rev', revision, 'fq_enqueued', at, 'fq_watch', ARGV[14],
  'fq_call', ARGV[17]}
for n = 19, #ARGV do fields[#fields + 1] = ARGV[n] end
local function set(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if ARGV[7] ~= '0' then set('fq_prio', ARGV[7]) end
if delay > 0 then set('fq_delay', delay) end
if ttl > 0 then
  set('fq_ttl_at', at + delay + ttl)
  if ARGV[18] == '1' then
    set('fq_timed', 1)
    redis.call('ZADD', P .. N.ttls .. ep, at + delay + ttl, id)
  end
end
if idempotency then
  set('fq_key', ARGV[11])
  redis.call('SET', idempotency, id .. ' ' .. ARGV[12], 'PX', ARGV[13])
end
redis.call('HSET', key, unpack(fields))
local cold = ''
if delay > 0 then
  if queue ~= ep then redis.call('ZADD', P .. N.endpoint_queues .. ep, ARGV[7], queue) end
  redis.call('ZADD', P .. N.scheduled .. queue, (at + delay) / 1000, id)
  wake(P)
else
  enqueue(P, id, ep, queue, ARGV[7], false)
  if record[2] == '1' then
    cold = none_idle(P, ep)
  else
    cold = hand_over(P, ep, id, #ARGV[17], at)
  end
  if cold == 1 then
    redis.call('HSET', key, 'fq_cold', 1)
    redis.call('HINCRBY', P .. N.stats .. ep, 'cold', 1)
  end
end
return {'ok', cold, at, current == revision and 1 or 0}
