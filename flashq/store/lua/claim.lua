-- CLAIM: take up to `count` jobs for a worker; the first of them begin at once. Where it got fewer than it has room
-- for, it stands in the endpoint's idle set from here on. The same nonce gets the same answer.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4 nonce  5 count  6 lease (ms)  7 how many begin at once
--       8 jobs held already  9 how many it has room to begin now
-- Returns {now, verdict, rows}; verdict 'ok', 'drain' or 'gone'; a row is
--   {id, fence, call, revision, generation, attempt, losses, enqueued (ms), cold, retries used}.
local at = now()
local r = claim(ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]),
  tonumber(ARGV[8]), tonumber(ARGV[9]), at)
return {at, r[1], r[2]}
