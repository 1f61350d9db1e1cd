-- EPOCH: which data set this is; another one, or none, means that the one known was lost.
-- KEYS  1 the epoch
-- ARGV  1 prefix
-- Returns its name, '' where there is none.
return redis.call('GET', ARGV[1] .. N.epoch) or ''
