-- START: a claimed job begins; this is where its attempt counts.
-- KEYS  1 the job's hash
-- ARGV  1 prefix  2 job id  3 fence  4 the worker that holds it ('' any)
-- Returns 'ok', 'cancel' (begun, but its caller wants it stopped) or 'stale'.
return begin(ARGV[1], ARGV[2], ARGV[3], now(), ARGV[4])
