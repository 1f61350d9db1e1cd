-- REGISTER: make an endpoint known, or bring its record up to date (compare-and-set on its version).
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 expected version ('' = whatever it is)  4 revision digest
--       5 environment digest  6 resource digest  7 record (JSON: the public spec)  8 scaling (JSON)  9 program id
--       10 the signed revision record  11 a fresh epoch, used only where there is none
--       12 a tag of the values of env= (they are sealed differently each time)  13 the sealed values ('' none)
--       14 the id of the key that signed the record: one kept under another key is replaced ('': never)
--       15 digest of the GPUs, cores and memory that a worker takes ('': not said)
-- Returns {verdict, version, epoch, previous program}; verdict:
--   'created'  it was not there            'reused'   nothing differed
--   'scaled'   only scaling or env differed     'code'     another revision, same environment and resources
--   'replaced' environment or resources differed      'moved'  the version is not the expected one: read again
local P, ep, at = ARGV[1], ARGV[2], now()
redis.call('SETNX', P .. N.epoch, ARGV[11])
local epoch = redis.call('GET', P .. N.epoch)
local key = P .. N.endpoint .. ep
local r = redis.call('HMGET', key, 'version', 'revision', 'environment', 'resources', 'spec', 'scaling', 'program', 'env_tag',
  'declared')
local version, needs = tonumber(r[1] or 0), redis.call('HGET', key, 'needs')
if ARGV[3] ~= '' and tonumber(ARGV[3]) ~= version then return {'moved', version, epoch, r[7] or ''} end
if ARGV[15] ~= '' and needs ~= ARGV[15] then
  redis.call('HSET', key, 'needs', ARGV[15])
  redis.call('DEL', P .. N.idle .. ep)  -- nobody there has that; whoever does after all says so at its next look
end
local revision = P .. N.revision .. ep .. ':' .. ARGV[4]
local resigned = false
if redis.call('SETNX', revision, ARGV[10]) == 0 then
  -- A key's id stands in the header, which comes first: workers that have the new key only could not read the old bytes.
  resigned = not string.find(redis.call('GETRANGE', revision, 0, 1023), ARGV[14], 1, true)
  if resigned then
    redis.call('SET', revision, ARGV[10])
    note(P, ep, 'endpoint-resigned', ep, 'revision ' .. string.sub(ARGV[4], 1, 12) .. ', key ' .. ARGV[14])
  else
    redis.call('PERSIST', revision)
  end
end
-- Whoever registers has perhaps mended what could not start: it is tried anew.
local function forget_failures()
  redis.call('HDEL', key, 'failures', 'failure', 'failed_at', 'first_failed_at', 'broken')
end
local verdict
if not r[1] then
  verdict = 'created'
elseif r[3] ~= ARGV[5] or r[4] ~= ARGV[6] then
  verdict = 'replaced'
elseif r[2] ~= ARGV[4] then
  verdict = 'code'
elseif (r[9] or r[6]) ~= ARGV[8] or r[5] ~= ARGV[7] or (r[8] or '') ~= ARGV[12] then
  verdict = 'scaled'
else
  if resigned and ARGV[13] ~= '' then redis.call('HSET', key, 'env', ARGV[13]) end  -- the same values under the new key
  if redis.call('HEXISTS', key, 'broken') == 1 then
    forget_failures()
    wake(P)
  end
  return {'reused', version, epoch, r[7] or ''}
end
-- The revision that is no longer current stays a week, so that its waiting jobs can be run, and one can go back to it.
if r[2] and r[2] ~= '' and (r[2] ~= ARGV[4] or verdict == 'replaced') then
  keep_previous(key, r[2], r[3], r[4], r[5], needs)
  if r[2] ~= ARGV[4] then redis.call('PEXPIRE', P .. N.revision .. ep .. ':' .. r[2], 604800000) end
end
-- What an operator has set (SCALE) holds until the program itself says something else.
local scaling = r[9] == ARGV[8] and r[6] or ARGV[8]
redis.call('HSET', key, 'version', version + 1, 'revision', ARGV[4], 'environment', ARGV[5], 'resources', ARGV[6],
  'spec', ARGV[7], 'scaling', scaling, 'declared', ARGV[8], 'program', ARGV[9], 'registered_at', at, 'env_tag', ARGV[12], 'env', ARGV[13])
if verdict ~= 'scaled' or redis.call('HEXISTS', key, 'broken') == 1 then forget_failures() end
redis.call('SADD', P .. N.endpoints, ep)
redis.call('ZADD', P .. N.endpoint_queues .. ep, 0, ep)
redis.call('SADD', P .. N.queues, P .. N.queue .. ep)
note(P, ep, 'endpoint-' .. verdict, ep, 'revision ' .. string.sub(ARGV[4], 1, 12))
wake(P)
return {verdict, version + 1, epoch, r[7] or ''}
