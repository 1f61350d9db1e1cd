-- ROLL BACK: an endpoint's current code, dependencies and resources become those of before its last update; what was
-- current is what another rollback goes to. Scaling and the values of env= stay as they are.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 the revision that was current when this was asked for
-- Returns {verdict, the revision that is current then}; verdict: 'ok' (also when resent), 'unknown', 'moved' (another
-- became current meanwhile), 'none' (there was no update), 'gone' (the earlier code is kept no longer).
local P, ep, at = ARGV[1], ARGV[2], now()
local key = P .. N.endpoint .. ep
local r = redis.call('HMGET', key, 'version', 'revision', 'environment', 'resources', 'spec', 'needs', 'rolled_back')
local b = redis.call('HMGET', key, 'previous_revision', 'previous_environment', 'previous_resources', 'previous_spec',
  'previous_needs')
if not r[1] then return {'unknown', ''} end
if r[2] ~= ARGV[3] then return {r[7] == ARGV[3] and 'ok' or 'moved', r[2]} end
if not b[1] then return {'none', r[2]} end
local revision = P .. N.revision .. ep .. ':'
if redis.call('EXISTS', revision .. b[1]) == 0 then return {'gone', r[2]} end
redis.call('PERSIST', revision .. b[1])
if b[1] ~= r[2] then redis.call('PEXPIRE', revision .. r[2], 604800000) end
redis.call('HSET', key, 'version', int(tonumber(r[1]) + 1), 'registered_at', at, 'rolled_back', r[2],
  'revision', b[1], 'environment', b[2] or '', 'resources', b[3] or '', 'spec', b[4] or '', 'needs', b[5] or '')
keep_previous(key, r[2], r[3], r[4], r[5], r[6])
redis.call('HDEL', key, 'failures', 'failure', 'failed_at', 'first_failed_at', 'broken')
redis.call('DEL', P .. N.idle .. ep)  -- what a worker takes of its host may be another, as in REGISTER
note(P, ep, 'endpoint-rolled-back', ep, 'revision ' .. string.sub(r[2], 1, 12) .. ' to ' .. string.sub(b[1], 1, 12))
wake(P)
return {'ok', b[1]}
