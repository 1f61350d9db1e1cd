-- FREE GPU: a host gives back a GPU whose worker has ended, having seen it free, or keeps it from everybody.
-- KEYS  1 the GPUs' leases
-- ARGV  1 prefix  2 the GPU's UUID  3 the lease's fence  4 the host  5 why it is kept, '': it is free
-- Returns 'ok' (also when resent), 'held' (its worker is on record still), or 'stale' (another has it since).
local P, uuid, host, why, at = ARGV[1], ARGV[2], ARGV[4], ARGV[5], now()
local l = gpu_lease(P, uuid)
if not l or int(l.fence) ~= ARGV[3] then return 'stale' end
if l.worker ~= '' and is_counted(P, l.worker) then return 'held' end
if l.worker == '' and l.why == why then return 'ok' end
lease_gpu(P, uuid, l.fence, at, '', '', host, why)
if why == '' then
  if l.why ~= '' then note(P, l.ep, 'gpu-free', uuid, 'it is free again') end
  wake(P)
else
  note(P, l.ep, 'gpu-kept', uuid, why)
end
return 'ok'
