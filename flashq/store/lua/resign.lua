-- RESIGN: an autoscaler ends in order. If it led, those that stand by are rung for, and the first of them leads.
-- KEYS  1 the leader's record
-- ARGV  1 prefix  2 autoscaler
-- Returns 1 where it led, else 0.
local P, me = ARGV[1], ARGV[2]
local key, standbys = P .. N.leader, P .. N.standbys
redis.call('ZREM', standbys, me)
redis.call('DEL', P .. N.bell .. me)
if redis.call('HGET', key, 'holder') ~= me then return 0 end
redis.call('HSET', key, 'holder', '')
note(P, '', 'leader-resigned', me, 'epoch ' .. (redis.call('HGET', key, 'epoch') or '?'))
for _, other in ipairs(redis.call('ZRANGE', standbys, 0, -1)) do ring(P, other, 'lead') end
return 1
