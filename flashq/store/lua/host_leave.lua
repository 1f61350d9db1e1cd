-- HOST LEAVES: forget a host (it ended, or has been silent).
-- KEYS  1 the host's hash
-- ARGV  1 prefix  2 host  3 '1': only if its heartbeat is overdue  4 the leader's term, '' for the host itself
-- Returns 1 where it was removed, else 0; DEPOSED.
local P, host, at = ARGV[1], ARGV[2], now()
local refusal = deposed(P, '', ARGV[4])
if refusal then return refusal end
local until_ = redis.call('ZSCORE', P .. N.hosts, host)
if not until_ or (ARGV[3] == '1' and tonumber(until_) > at) then return 0 end
redis.call('ZREM', P .. N.hosts, host)
redis.call('DEL', P .. N.host .. host, P .. N.commands .. host, P .. N.host_environments .. host)
wake(P)
return 1
