-- REKEY: put a revision's record, and the sealed values of env=, under another key: only what is under the old one still.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 revision digest  4 the old key's id  5 the record signed anew ('' leave it)
--       6 the sealed values as they were ('' leave them)  7 the same, sealed anew
-- Returns how many of the two were replaced.
local P, ep = ARGV[1], ARGV[2]
local revision, endpoint = P .. N.revision .. ep .. ':' .. ARGV[3], P .. N.endpoint .. ep
local replaced = 0
if ARGV[5] ~= '' and string.find(redis.call('GETRANGE', revision, 0, 1023), ARGV[4], 1, true) then
  redis.call('SET', revision, ARGV[5], 'KEEPTTL')
  note(P, ep, 'endpoint-resigned', ep, 'revision ' .. string.sub(ARGV[3], 1, 12) .. ', was under key ' .. ARGV[4])
  replaced = replaced + 1
end
if ARGV[6] ~= '' and redis.call('HGET', endpoint, 'env') == ARGV[6] then
  redis.call('HSET', endpoint, 'env', ARGV[7])
  replaced = replaced + 1
end
return replaced
