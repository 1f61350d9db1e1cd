-- ADVANCE: a worker's step in one round trip: START what was handed on, FINISH what is done, CLAIM more.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4 nonce  5 count to claim (0 none)  6 lease (ms)  7 how many of them begin
--       at once  8 jobs held already  9 how many it has room to begin now  10 how many outcomes follow (8 values each:
--       id, fence, state, reason, text, outcome, kept for s, timing)  then how many to start (3 values each: id,
--       fence, how long ago it began in ms)
-- Returns {now, verdict, rows, finish verdicts, start verdicts} (see claim.lua, finish.lua, start.lua).
local P, at = ARGV[1], now()
local finished, started = {}, {}
local settled = 11 + 8 * tonumber(ARGV[10])
for n = 1, tonumber(ARGV[settled]) do  -- first: what began and ended within this step counts as an attempt
  local i = settled + 3 * n - 2
  started[n] = begin(P, ARGV[i], ARGV[i + 1], at - tonumber(ARGV[i + 2]), ARGV[3])
end
for n = 1, tonumber(ARGV[10]) do
  local i = 3 + 8 * n
  finished[n] = settle(P, ARGV[i], ARGV[i + 1], {state = ARGV[i + 2], reason = ARGV[i + 3], text = ARGV[i + 4],
    outcome = ARGV[i + 5], ttl_s = tonumber(ARGV[i + 6]), delay_ms = 0, timing = ARGV[i + 7], worker = ARGV[3]}, at)
  if finished[n] == 'gone' and ARGV[i + 2] == 'finished' then spend(P, ARGV[2], ARGV[i], nil, at) end
end
local r = claim(P, ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]),
  tonumber(ARGV[9]), at)
return {at, r[1], r[2], finished, started}
