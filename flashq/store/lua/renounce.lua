-- RENOUNCE: a key got into other hands, so nothing that it signed of an endpoint is used any more: neither its revisions'
-- records nor the sealed values of env=. Where the current revision or the values were under it, the endpoint has no
-- current revision until somebody registers it again; its queues, jobs and settings stay.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 the key's id  4… digests of its revisions
-- Returns how many records and sealed values were thrown away.
local P, ep = ARGV[1], ARGV[2]
local key, count = P .. N.endpoint .. ep, 0
local e = redis.call('HMGET', key, 'revision', 'env')
local current_is = e[2] and string.find(string.sub(e[2], 1, 1024), ARGV[3], 1, true)
if current_is then count = 1 end
for n = 4, #ARGV do
  local record = P .. N.revision .. ep .. ':' .. ARGV[n]
  if string.find(redis.call('GETRANGE', record, 0, 1023), ARGV[3], 1, true) then
    redis.call('DEL', record)
    count = count + 1
    current_is = current_is or e[1] == ARGV[n]
  end
end
if current_is and e[1] then
  redis.call('DEL', P .. N.revision .. ep .. ':' .. e[1])  -- also one that is good: it is not to run without its values
  redis.call('HSET', key, 'revision', '', 'env', '', 'env_tag', '')
end
if count > 0 then note(P, ep, 'endpoint-renounced', ep, int(count) .. ' record(s) under key ' .. ARGV[3]) end
return count
