-- RECOVER: after a lost connection, the jobs that are a worker's though it does not know them.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4… ids of the jobs it knows of
-- Returns {now, 'ok', rows} as CLAIM does.
local known = {}
for n = 4, #ARGV do known[ARGV[n]] = true end
return {now(), 'ok', unheard(ARGV[1], ARGV[2], ARGV[3], known)}
