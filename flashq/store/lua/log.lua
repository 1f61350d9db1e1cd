-- LOG: keep a piece of what a job printed, in a capped stream. Pieces of one run come in order; one that is there
-- already, or of an earlier run than what is there, is passed over.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 text  4 how long it is kept after the last piece (s)  5 about how many pieces are kept
--       6 fence of the run  7 how many bytes of the run's output came before it
-- Returns 1, or 0 where it was passed over.
local key, fence, at = ARGV[1] .. N.logs .. ARGV[2], tonumber(ARGV[6]), tonumber(ARGV[7])
local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if newest then
  local known, reached = tonumber(newest[2][4] or 0), tonumber(newest[2][6] or -1)
  if known > fence or (known == fence and reached >= at) then return 0 end
end
redis.call('XADD', key, 'MAXLEN', '~', ARGV[5], '*', 'text', ARGV[3], 'fence', fence, 'at', at)
redis.call('EXPIRE', key, ARGV[4])
return 1
