-- RESTART: all processes of a private broker ended with it, so nobody holds anything of this endpoint any more: jobs
-- go back to where they waited (uncounted: it was no fault of theirs) and workers are closed.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 endpoint
-- Returns how many jobs were in hand.
local P, ep, at = ARGV[1], ARGV[2], now()
local leased = redis.call('ZRANGE', P .. N.leases .. ep, 0, -1)
local held = {}
for _, id in ipairs(leased) do
  local f = read(P, id)
  if live(f, f and f.fence) then held[#held + 1] = {id, f} else redis.call('ZREM', P .. N.leases .. ep, id) end
end
for _, h in ipairs(latest_first(held)) do
  local id, f = h[1], h[2]
  if f.cancel or (f.mode == 'at_most_once' and f.state == 'running') then
    lose(P, id, f, 'the broker was restarted', '', nil, at)
  else
    unlease(P, id, f)
    put_back(P, id, f, true)
  end
end
for _, worker in ipairs(redis.call('ZRANGE', P .. N.endpoint_workers .. ep, 0, -1)) do
  close_worker(P, ep, worker, 'the broker was restarted', at)
end
redis.call('DEL', P .. N.idle .. ep)
return #leased
