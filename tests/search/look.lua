#!lua name=flashq_search
-- What the search needs of a broker beside the scripts: to be put into a state, again and again, and to say what
-- state it is in. Keys of the state are rq:* and search:*; events and the autoscaler's bell are told and left out.
local base, base_rows, base_clock = {}, {}, ''  -- the state entered: each key's row, read and packed
local last = {}  -- what LOOK saw

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

-- Every key as a packed row: its name, type, whether it expires, what it holds.
local function dump()
  local rows = {}
  for _, key in ipairs(redis.call('KEYS', '*')) do
    if string.sub(key, 1, 12) ~= 'conformance:' then
      local type = redis.call('TYPE', key).ok
      local expires = redis.call('PTTL', key) >= 0 and 1 or 0
      rows[key] = cmsgpack.pack({key, type, expires, readers[type](key)})
    end
  end
  return rows
end

-- Rows of `now` that are not those of `before`, and the keys that are no more.
local function changes(before, now)
  local changed, gone = {}, {}
  for key, row in pairs(now) do
    if before[key] ~= row then changed[#changed + 1] = row end
  end
  for key in pairs(before) do
    if not now[key] then gone[#gone + 1] = key end
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
  base, base_rows, base_clock = {}, {}, args[1]
  for i = 2, #args do
    local row = cmsgpack.unpack(args[i])
    base[row[1]], base_rows[row[1]] = row, args[i]
    write(row)
  end
  redis.call('SET', 'conformance:clock', base_clock)
  return 1
end)

-- LOOK: {rows that are not those of the state entered, keys that are gone, whether the autoscaler was woken, clock}.
redis.register_function('flashq_search_look', function()
  local woken = redis.call('DEL', 'rq:fq:wake')
  redis.call('DEL', 'rq:fq:events')
  last = dump()
  local changed, gone = changes(base_rows, last)
  return {changed, gone, woken, redis.call('GET', 'conformance:clock')}
end)

-- AGAIN: {rows that are not those LOOK saw, keys that are gone}; then the state that was entered is there again.
redis.register_function('flashq_search_again', function()
  redis.call('DEL', 'rq:fq:wake', 'rq:fq:events')
  local now = dump()
  local changed, gone = changes(last, now)
  for key, row in pairs(now) do
    if base_rows[key] ~= row then
      redis.call('DEL', key)
      if base[key] then write(base[key]) end
    end
  end
  for key, row in pairs(base) do
    if not now[key] then write(row) end
  end
  redis.call('SET', 'conformance:clock', base_clock)
  return {changed, gone}
end)
