-- CHUNK: one more of the values that a running job yields; of the newest run alone, in order, each once.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 fence  4 the worker that holds it  5 its number, from 1  6 the signed chunk
--       7 how long they are kept after the last (s)
-- Returns {'ok' or 'stale', up to which number a reader has them}.
local P, id, fence, number = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local f = read(P, id)
if not live(f, fence, ARGV[4]) then return {'stale', '0'} end
local key = P .. N.chunks .. id
if number == '1' then redis.call('XTRIM', key, 'MINID', fence .. '-0') end  -- what earlier runs yielded
local added = redis.pcall('XADD', key, fence .. '-' .. number, 'chunk', ARGV[6])
if added.err and not string.find(tostring(added.err), 'equal or smaller', 1, true) then return added end  -- else: sent again
redis.call('EXPIRE', key, ARGV[7])
local of, taken = string.match(field(P, id, 'fq_taken') or '', '^(%d+) (%d+)$')
return {'ok', of == fence and taken or '0'}
