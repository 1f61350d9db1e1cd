-- WATCH: how jobs stand now, and (with a channel) be told when each ends. Also where a waiting client's check
-- brings to an end what a tool of RQ cancelled.
-- KEYS  1 a job's hash
-- ARGV  1 prefix  2 channel ('' none)  3… job ids
-- Returns a row per id: {state, fence, reason, text, outcome, generation, 'c' or 'w' (cold or warm; '': not known)};
--   state '' where there is no such job.
local P, channel, at = ARGV[1], ARGV[2], now()
local rows = {}
for n = 3, #ARGV do
  local id = ARGV[n]
  local f = read(P, id)
  if not f then
    rows[#rows + 1] = {'', '0', '', '', '', '0', ''}
  else
    if f.state == 'queued' and f.status == 'canceled' then
      conclude(P, id, f, 'cancelled', 'cancelled', 'cancelled with a tool of RQ', '', f.failure_ttl, at)
      f.state = 'cancelled'
    end
    if not TERMINAL[f.state] and channel ~= '' and not string.find(f.watch or '', channel, 1, true) then
      local watch = (f.watch and f.watch ~= '') and f.watch .. ',' .. channel or channel
      redis.call('HSET', job_key(P, id), 'fq_watch', watch)
    end
    local v = redis.call('HMGET', job_key(P, id), 'fq_reason', 'fq_error', 'fq_outcome')
    rows[#rows + 1] = {f.state, f.fence, v[1] or '', v[2] or '', v[3] or '', f.gen, f.began and warmth(f) == '' and 'w' or warmth(f)}
  end
end
return rows
