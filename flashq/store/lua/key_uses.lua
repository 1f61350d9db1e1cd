-- KEY USES: how many of these jobs bear a call that is signed with this key. Writes nothing.
-- KEYS  1 the endpoint's record
-- ARGV  1 prefix  2 key id  3… job ids
-- Returns {how many, {the revisions of all of them}}.
local P, mark = ARGV[1], ARGV[2]
local count, seen, revisions = 0, {}, {}
for n = 3, #ARGV do
  local v = redis.pcall('HMGET', job_key(P, ARGV[n]), 'fq_call', 'fq_rev')
  if not v.err and v[1] and string.find(string.sub(v[1], 1, 1024), mark, 1, true) then count = count + 1 end
  if not v.err and v[2] and not seen[v[2]] then
    seen[v[2]] = true
    revisions[#revisions + 1] = v[2]
  end
end
return {count, revisions}
