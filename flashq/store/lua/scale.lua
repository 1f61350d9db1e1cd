-- SCALE: an operator sets how many workers an endpoint has, in place of what its program says, until that says something
-- else; or goes back to what it says.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 the settings that were read (JSON)  4 those to be (JSON), '': what the program says
-- Returns {verdict, the settings then}; verdict: 'ok' (also when resent), 'unknown', or 'moved': they were others, read again.
local P, ep = ARGV[1], ARGV[2]
local key = P .. N.endpoint .. ep
local r = redis.call('HMGET', key, 'version', 'scaling', 'declared')
if not r[1] then return {'unknown', ''} end
local declared = r[3] or r[2]
local wanted = ARGV[4] ~= '' and ARGV[4] or declared
if r[2] == wanted then return {'ok', wanted} end
if r[2] ~= ARGV[3] then return {'moved', r[2]} end
redis.call('HSET', key, 'version', int(tonumber(r[1]) + 1), 'scaling', wanted, 'declared', declared)
note(P, ep, 'endpoint-scaled', ep, r[2] .. ' to ' .. wanted)
wake(P)
return {'ok', wanted}
