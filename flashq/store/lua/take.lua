-- TAKE: a reader has a job's chunks up to a number: they are kept no longer, and as many may follow. Of a job that has
-- ended and was read to its end nothing is kept.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 fence of the run that yielded them  4 the number
-- Returns 'ok', 'stale' (there is another run by now) or 'unknown'.
local P, id, fence, number = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local f = read(P, id)
if not f then return 'unknown' end
if f.fence ~= fence then return 'stale' end
local of, taken = string.match(field(P, id, 'fq_taken') or '', '^(%d+) (%d+)$')
if of == fence and tonumber(taken) >= number then return 'ok' end
redis.call('HSET', job_key(P, id), 'fq_taken', fence .. ' ' .. int(number))
local chunks = P .. N.chunks .. id
redis.call('XTRIM', chunks, 'MINID', fence .. '-' .. int(number + 1))
if TERMINAL[f.state] and redis.call('XLEN', chunks) == 0 then redis.call('DEL', chunks) end
if live(f, fence) and f.worker and f.worker ~= '' then
  ring(P, f.worker, 'taken:' .. id .. ':' .. fence .. ':' .. int(number))
end
return 'ok'
