-- FAIL WAITING: an endpoint that cannot start fails the jobs that wait for it, with the reason.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 revision (only jobs of this one)  4 text  5 at most so many
--       6 the leader's term, '' for a worker
-- Returns how many were failed; DEPOSED.
local P, ep, at = ARGV[1], ARGV[2], now()
local refusal = deposed(P, ep, ARGV[6])
if refusal then return refusal end
local count = 0
for _, queue in ipairs(redis.call('ZRANGE', P .. N.endpoint_queues .. ep, 0, -1)) do
  for _, id in ipairs(redis.call('LRANGE', P .. N.queue .. queue, 0, tonumber(ARGV[5]) - 1)) do
    local f = read(P, id)
    if f and f.state == 'queued' and field(P, id, 'fq_rev') == ARGV[3] then
      redis.call('LREM', P .. N.queue .. queue, 1, id)
      conclude(P, id, f, 'failed', 'start', ARGV[4], '', f.failure_ttl, at)
      count = count + 1
    end
  end
end
return count
