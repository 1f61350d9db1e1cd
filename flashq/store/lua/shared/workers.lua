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
  note(P, ep, why == 'left' and 'worker-ended' or 'worker-lost', worker, why ~= 'left' and why or 'in order')
  wake(P)
end
