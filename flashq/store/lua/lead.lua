-- LEAD: an autoscaler keeps the lease of the one that may act, or takes it where nobody has it. Taking it raises the
-- epoch, and what was decided under an earlier one is refused from then on (deposed, in basics.lua).
-- KEYS  1 the leader's record
-- ARGV  1 prefix  2 autoscaler  3 lease (ms)  4 '1': take it, whoever has it  5… fields and values of the record
-- Returns {now, epoch, who leads, since (ms), until (ms)}; where that is another, this autoscaler stands by.
local P, me, lease, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), now()
local key, standbys = P .. N.leader, P .. N.standbys
local l = redis.call('HMGET', key, 'epoch', 'holder', 'since', 'until', 'lease')
local epoch, holder, since, until_ = whole(l[1], 0), l[2] or '', whole(l[3], 0) or 0, whole(l[4], 0) or 0
if not epoch then epoch, holder = 0, '' end  -- somebody else wrote it: it begins anew, and hosts know better
if holder ~= me then
  if holder ~= '' and until_ > at and ARGV[4] ~= '1' then
    local most = at + (whole(l[5], lease) or lease)
    if until_ > most then  -- the clock was set back: nothing may last for hours
      until_ = most
      redis.call('HSET', key, 'until', until_)
    end
    redis.call('ZADD', standbys, at + lease, me)
    redis.call('PEXPIRE', standbys, 2 * lease)
    return {at, epoch, holder, since, until_}
  end
  local how = holder == '' and '' or (until_ > at and ', in place of ' or ', after the silence of ') .. holder
  epoch, since = epoch + 1, at
  redis.call('HSET', key, 'epoch', int(epoch), 'holder', me, 'since', at)
  note(P, '', 'leader', me, 'epoch ' .. int(epoch) .. how)
end
until_ = at + lease
redis.call('HSET', key, 'until', until_, 'lease', lease, unpack(ARGV, 5))
redis.call('ZREM', standbys, me)
redis.call('ZREMRANGEBYSCORE', standbys, 0, at)
return {at, epoch, me, since, until_}
