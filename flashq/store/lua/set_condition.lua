-- SET CONDITION: record why an endpoint has fewer workers than it wants ('' where all is well).
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 field of the record ('condition' or 'withheld')  4 JSON or ''  5 text of the event
--       6 the leader's term
-- Returns 1 where it was recorded, 0 where there is no such endpoint; DEPOSED.
local P, ep = ARGV[1], ARGV[2]
local refusal = deposed(P, ep, ARGV[6])
if refusal then return refusal end
local key = P .. N.endpoint .. ep
if redis.call('EXISTS', key) == 0 then return 0 end
local since = ARGV[3] .. '_since'
if ARGV[4] == '' then
  redis.call('HDEL', key, ARGV[3], since)
else
  local function code(json) return json and string.match(json, '"code": "([A-Z_]+)"') end
  if code(redis.call('HGET', key, ARGV[3])) ~= code(ARGV[4]) then redis.call('HSET', key, since, now()) end
  redis.call('HSET', key, ARGV[3], ARGV[4])
end
if ARGV[5] ~= '' then note(P, ep, 'endpoint-' .. ARGV[3], ep, ARGV[5]) end
return 1
