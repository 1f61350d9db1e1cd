-- LOG: keep a piece of what a job printed, in a capped stream.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 text  4 how long it is kept after the last piece (s)  5 about how many pieces are kept
-- Returns 1.
local key = ARGV[1] .. N.logs .. ARGV[2]
redis.call('XADD', key, 'MAXLEN', '~', ARGV[5], '*', 'text', ARGV[3])
redis.call('EXPIRE', key, ARGV[4])
return 1
