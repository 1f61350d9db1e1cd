#!lua name=flashq_search
-- What the search needs of a broker beside the scripts: to be put into a state, again and again, and to say what
-- state it is in. Keys of the state are rq:* and search:*; events and the autoscaler's bell are told and left out.
local base, base_clock = {rows = {}, marks = {}}, ''  -- the state entered
local entries = {}  -- its rows, unpacked
local last = base  -- what LOOK saw

local readers = {
  hash = function(key) return redis.call('HGETALL', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  set = function(key) return redis.call('SMEMBERS', key) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  string = function(key) return redis.call('GET', key) end,
  stream = function(key)
    local entries = {}
    for i, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do entries[i] = entry[2] end
    return entries
  end,
}

local function row_of(key)
  local type = redis.call('TYPE', key).ok
  return cmsgpack.pack({key, type, redis.call('PTTL', key) >= 0 and 1 or 0, readers[type](key)})
end

-- Every key as a packed row (its name, type, whether it expires, what it holds), and its mark: what DUMP and PTTL say.
-- What has the mark of `before` has its row too, and is not read: most of a state stays as it is.
local function dump(before)
  local found = {rows = {}, marks = {}}
  for _, key in ipairs(redis.call('KEYS', '*')) do
    if string.sub(key, 1, 12) ~= 'conformance:' then
      local mark = (redis.call('PTTL', key) >= 0 and '1' or '0') .. redis.call('DUMP', key)
      found.marks[key] = mark
      found.rows[key] = mark == before.marks[key] and before.rows[key] or row_of(key)
    end
  end
  return found
end

-- Rows of `now` that are not those of `before`, and the keys that are no more.
local function changes(before, now)
  local changed, gone = {}, {}
  for key, row in pairs(now.rows) do
    if before.rows[key] ~= row then changed[#changed + 1] = row end
  end
  for key in pairs(before.rows) do
    if not now.rows[key] then gone[#gone + 1] = key end
  end
  return changed, gone
end

local function pairs_of(value, first, second, command, key)
  local args = {}
  for i = 1, #value, 2 do
    args[#args + 1] = value[i + first]
    args[#args + 1] = value[i + second]
  end
  redis.call(command, key, unpack(args))
end

local writers = {
  hash = function(key, value) redis.call('HSET', key, unpack(value)) end,
  list = function(key, value) redis.call('RPUSH', key, unpack(value)) end,
  set = function(key, value) redis.call('SADD', key, unpack(value)) end,
  zset = function(key, value) pairs_of(value, 1, 0, 'ZADD', key) end,
  string = function(key, value) redis.call('SET', key, value) end,
  stream = function(key, value)
    for _, entry in ipairs(value) do redis.call('XADD', key, '*', unpack(entry)) end
  end,
}

local function write(row)
  writers[row[2]](row[1], row[4])
  if row[3] == 1 then redis.call('PEXPIRE', row[1], 100000000) end
end

-- ENTER: be in this state (clock, packed rows), and come back to it after each AGAIN.
redis.register_function('flashq_search_enter', function(_, args)
  redis.call('FLUSHDB')
  entries, base_clock = {}, args[1]
  for i = 2, #args do
    local row = cmsgpack.unpack(args[i])
    entries[row[1]] = row
    write(row)
  end
  base = dump({rows = {}, marks = {}})
  for i = 2, #args do base.rows[cmsgpack.unpack(args[i])[1]] = args[i] end
  redis.call('SET', 'conformance:clock', base_clock)
  return 1
end)

-- LOOK: {rows that are not those of the state entered, keys that are gone, whether the autoscaler was woken, clock}.
redis.register_function('flashq_search_look', function()
  local woken = redis.call('DEL', 'rq:fq:wake')
  redis.call('DEL', 'rq:fq:events', 'rq:fq:events:embed')
  last = dump(base)
  local changed, gone = changes(base, last)
  return {changed, gone, woken, redis.call('GET', 'conformance:clock')}
end)

-- AGAIN: {rows that are not those LOOK saw, keys that are gone}; then the state that was entered is there again.
redis.register_function('flashq_search_again', function()
  redis.call('DEL', 'rq:fq:wake', 'rq:fq:events', 'rq:fq:events:embed')
  local now = dump(last)
  local changed, gone = changes(last, now)
  for key, row in pairs(now.rows) do
    if base.rows[key] ~= row then
      redis.call('DEL', key)
      if entries[key] then write(entries[key]) end
    end
  end
  for key, row in pairs(entries) do
    if not now.rows[key] then write(row) end
  end
  redis.call('SET', 'conformance:clock', base_clock)
  return {changed, gone}
end)
