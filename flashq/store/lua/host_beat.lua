-- BEAT: a host's heartbeat and what it has.
-- KEYS  1 the host's hash
-- ARGV  1 prefix  2 host  3 lease (ms)  4… fields and values of its hash
-- Returns {now, 1 where it was not known before}.
local P, host, at = ARGV[1], ARGV[2], now()
local new = redis.call('ZADD', P .. N.hosts, at + tonumber(ARGV[3]), host)
redis.call('HSET', P .. N.host .. host, 'beat', at, unpack(ARGV, 4))
redis.call('EXPIRE', P .. N.host .. host, 86400)
if new == 1 then wake(P) end
return {at, new}
