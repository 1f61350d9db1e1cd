-- FINISH: store a job's outcome, or send it round again after a user's exception. Only the newest fence may.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 fence  4 state (finished, failed, cancelled, timed_out, retry)  5 reason  6 text
--       7 signed outcome  8 how long it is kept (s)  9 delay before a retry (ms)  10 timing (JSON or '')
--       11 the worker that holds it ('' any)
-- Returns 'ok' (also when resent), 'stale' (refused, noted) or 'gone' (the job was deleted).
return settle(ARGV[1], ARGV[2], ARGV[3], {state = ARGV[4], reason = ARGV[5], text = ARGV[6], outcome = ARGV[7],
  ttl_s = tonumber(ARGV[8]), delay_ms = tonumber(ARGV[9]), timing = ARGV[10], worker = ARGV[11]}, now())
