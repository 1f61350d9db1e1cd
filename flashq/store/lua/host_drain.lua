-- DRAIN HOST: a host shall be given no more workers, and those that it has shall finish what they hold and end; or it
-- is to be used again. Outlives the host's agent, whatever becomes of it.
-- KEYS  1 the drained hosts
-- ARGV  1 prefix  2 host  3 '1': drain, '0': use it again  4 why
-- Returns 'ok' (also where it is so already) or 'unknown' (there is no such host).
local P, host, at = ARGV[1], ARGV[2], now()
local drains, known = P .. N.drains, redis.call('ZSCORE', P .. N.hosts, host)
if ARGV[3] == '0' then
  if redis.call('HDEL', drains, host) == 0 then return known and 'ok' or 'unknown' end
  note(P, '', 'host-resumed', host, '')
else
  if not known then return 'unknown' end
  if redis.call('HSETNX', drains, host, int(at) .. ' ' .. ARGV[4]) == 0 then return 'ok' end
  note(P, '', 'host-drained', host, ARGV[4])
end
wake(P)
return 'ok'
