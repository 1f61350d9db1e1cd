-- PROGRESS: how far a running job is, by its own word; of the newest run alone, and never backwards.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 fence  4 the worker that holds it  5 the how manieth word of this run, from 1  6 JSON
-- Returns 'ok', or 'stale'.
local P, id, fence, number = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local f = read(P, id)
if not live(f, fence, ARGV[4]) then return 'stale' end
local of, reached = string.match(field(P, id, 'fq_progress_of') or '', '^(%d+) (%d+)$')
if of == fence and tonumber(reached) >= number then return 'ok' end
redis.call('HSET', job_key(P, id), 'fq_progress', ARGV[6], 'fq_progress_of', fence .. ' ' .. int(number))
return 'ok'
