-- REQUEUE: a job that failed, timed out or was cancelled begins anew, in the next generation. Sent again it changes
-- nothing, also where the job has failed once more meanwhile.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 a nonce: this very request
-- Returns 'ok', 'unknown', or the state it is in (which cannot be requeued).
local P, id, at = ARGV[1], ARGV[2], now()
local f = read(P, id)
if not f then return 'unknown' end
if redis.call('HGET', job_key(P, id), 'fq_requeue') == ARGV[3] then return 'ok' end
if not TERMINAL[f.state] or f.state == 'finished' then return f.state end
begin_anew(P, id, f, at)
redis.call('HSET', job_key(P, id), 'fq_requeue', ARGV[3])
return 'ok'
