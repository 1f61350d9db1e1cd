-- PURGE FAILED: delete jobs that failed or timed out, with all that was kept of them; a bounded number at a time.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint  3 one of its queues  4 how many to pass by  5 at most so many  6 only of this reason
--       ('' any)  7 only what ended by then (ms)
-- Returns {how many were looked at, how many were deleted}; fewer looked at than asked: none are left.
local P, at = ARGV[1], now()
return each_failed(P, ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]),
  function(id, f) forget(P, id, f, at) end)
