-- BEAT: a host's heartbeat and what it has; and what it knows of leaders, against what the broker does.
-- KEYS  1 the host's hash
-- ARGV  1 prefix  2 host  3 lease (ms)  4 the newest epoch that it was given a command of  5 the epoch of the last
--       command that it refused because a newer one was known, or ''  6… fields and values of its hash
-- Returns {now, 1 where it was not known before, the newest epoch}.
local P, host, at = ARGV[1], ARGV[2], now()
local key, leader = P .. N.host .. host, P .. N.leader
local epoch = whole(redis.call('HGET', leader, 'epoch'), 0) or 0
if tonumber(ARGV[4]) > epoch then  -- the broker came back without its last second, or without everything
  note(P, '', 'leader-unknown', host, 'had a command of epoch ' .. ARGV[4] .. ', the newest known is ' .. int(epoch))
  redis.call('HSET', leader, 'epoch', ARGV[4], 'holder', '')
  epoch = tonumber(ARGV[4])
end
if ARGV[5] ~= '' and redis.call('HGET', key, 'refused_epoch') ~= ARGV[5] then
  note(P, '', 'command-refused', host, 'a command of epoch ' .. ARGV[5] .. ', the newest is ' .. int(epoch))
  redis.call('HSET', key, 'refused_epoch', ARGV[5])
end
local new = redis.call('ZADD', P .. N.hosts, at + tonumber(ARGV[3]), host)
redis.call('HSET', key, 'beat', at, unpack(ARGV, 6))
redis.call('EXPIRE', key, 86400)
if new == 1 then wake(P) end
return {at, new, epoch}
