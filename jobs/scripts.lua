-- The life of a job. Every change of state is one of these scripts, so it happens whole or not at all,
-- on the clock of Redis and not on that of any worker.
--
-- Keys (P is the prefix, ARGV[1] of every script; key names are made here, so Redis Cluster cannot be used,
-- as with Celery's own Redis transport):
--
--   P:job:ID         hash    what is known of a job           kept HISTORY after it reached a final state
--                              batch, spec (JSON, fixed), state, attempt, tries, created_ms, queued_ms,
--                              updated_ms, worker, error (JSON), bundle (JSON), timings (JSON), progress (JSON)
--   P:batch:ID       hash    created_ms, total, and the number of jobs in each state by its name
--                                                             kept HISTORY after the last change of a job
--   P:batch:ID:jobs  list    ids of its jobs, as submitted    like P:batch:ID
--   P:batches        zset    batch id by created_ms           trimmed when a batch is found to be gone
--   P:due            zset    id of a queued job by the time (ms) at which a message for it is to be published
--   P:leases         zset    id of a running job by the time (ms) at which its lease ends
--
--   P:index:…                what workers know of indexes, see traffic.lua
--
-- The scheduler and the workers own all of them together; nobody else writes them.
-- Each script below is preceded by this common part and named by the line that opens it.

local P = ARGV[1]
local DUE, LEASES, BATCHES = P .. ':due', P .. ':leases', P .. ':batches'

local function job_key(id) return P .. ':job:' .. id end
local function batch_key(id) return P .. ':batch:' .. id end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Moves the count of a job's batch along with its state.
local function set_state(id, from, to, now)
  local key = job_key(id)
  local batch = batch_key(redis.call('HGET', key, 'batch'))
  redis.call('HSET', key, 'state', to, 'updated_ms', now)
  redis.call('HINCRBY', batch, from, -1)
  redis.call('HINCRBY', batch, to, 1)
end

-- A worker's right to write: the job runs, and the attempt is still the one it claimed.
local function holds(id, attempt)
  local found = redis.call('HMGET', job_key(id), 'state', 'attempt')
  return found[1] == 'running' and found[2] == attempt
end

local function end_lease(id)
  redis.call('ZREM', LEASES, id)
  redis.call('HDEL', job_key(id), 'progress')
end

-- Back to the queue under the next attempt, which fences whoever still works on this one.
local function queue_again(id, from, now, due)
  local key = job_key(id)
  redis.call('HINCRBY', key, 'attempt', 1)
  redis.call('HSET', key, 'queued_ms', due)
  redis.call('HDEL', key, 'worker')
  redis.call('PERSIST', key)
  redis.call('ZADD', DUE, due, id)
  set_state(id, from, 'queued', now)
end

local function keep_for(id, history_ms)
  local batch = batch_key(redis.call('HGET', job_key(id), 'batch'))
  redis.call('PEXPIRE', job_key(id), history_ms)
  redis.call('PEXPIRE', batch, history_ms)
  redis.call('PEXPIRE', batch .. ':jobs', history_ms)
end

--- script: enqueue
-- ARGV: P, batch, JSON list of [id, spec]. Returns how many jobs were new.
-- Adds the batch whole. A job that is there already is left as it is.
local batch, entries, now = ARGV[2], cjson.decode(ARGV[3]), now_ms()
local added = 0
for _, entry in ipairs(entries) do
  local id, spec = entry[1], entry[2]
  if redis.call('EXISTS', job_key(id)) == 0 then
    redis.call('HSET', job_key(id), 'batch', batch, 'spec', spec, 'state', 'queued', 'attempt', 1, 'tries', 1,
      'created_ms', now, 'queued_ms', now, 'updated_ms', now)
    redis.call('RPUSH', batch_key(batch) .. ':jobs', id)
    redis.call('ZADD', DUE, now, id)
    added = added + 1
  end
end
if added > 0 then
  redis.call('HSETNX', batch_key(batch), 'created_ms', now)
  redis.call('HINCRBY', batch_key(batch), 'total', added)
  redis.call('HINCRBY', batch_key(batch), 'queued', added)
  redis.call('ZADD', BATCHES, 'NX', now, batch)
  redis.call('PERSIST', batch_key(batch))
  redis.call('PERSIST', batch_key(batch) .. ':jobs')
end
return added

--- script: take
-- ARGV: P, limit, again_ms. Returns [id, attempt, id, attempt, ...] of the jobs whose message is due.
-- Each comes again after again_ms unless it was claimed meanwhile: a message may be lost.
local now, taken = now_ms(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))) do
  local found = redis.call('HMGET', job_key(id), 'state', 'attempt')
  if found[1] == 'queued' then
    redis.call('ZADD', DUE, now + tonumber(ARGV[3]), id)
    taken[#taken + 1] = id
    taken[#taken + 1] = found[2]
  else
    redis.call('ZREM', DUE, id)
  end
end
return taken

--- script: claim
-- ARGV: P, id, attempt, worker, lease_ms. Returns [batch, spec, tries, milliseconds in the queue], or nil
-- when the job is not queued under that attempt, or its time has not come.
local id, attempt, now = ARGV[2], ARGV[3], now_ms()
local key = job_key(id)
local found = redis.call('HMGET', key, 'state', 'attempt', 'batch', 'spec', 'tries', 'queued_ms')
if found[1] ~= 'queued' or found[2] ~= attempt or tonumber(found[6]) > now then return nil end
redis.call('ZREM', DUE, id)
redis.call('ZADD', LEASES, now + tonumber(ARGV[5]), id)
redis.call('HSET', key, 'worker', ARGV[4])
redis.call('HDEL', key, 'timings')
set_state(id, 'queued', 'running', now)
return { found[3], found[4], found[5], now - tonumber(found[6]) }

--- script: renew
-- ARGV: P, id, attempt, lease_ms, progress (JSON or ''). Returns 1, or 0 when the lease is not the caller's any more.
local id = ARGV[2]
if not holds(id, ARGV[3]) then return 0 end
redis.call('ZADD', LEASES, now_ms() + tonumber(ARGV[4]), id)
if ARGV[5] ~= '' then redis.call('HSET', job_key(id), 'progress', ARGV[5]) end
return 1

--- script: finish
-- ARGV: P, id, attempt, state, error (JSON or ''), bundle (JSON or ''), timings (JSON), delay_ms, history_ms.
-- state is published or failed, or queued for another attempt after delay_ms.
-- Returns 1, or 0 when the attempt is not the caller's any more: then nothing changes.
local id, state, now = ARGV[2], ARGV[4], now_ms()
local key = job_key(id)
if not holds(id, ARGV[3]) then return 0 end
end_lease(id)
redis.call('HSET', key, 'timings', ARGV[7])
redis.call('HDEL', key, 'error', 'bundle')
if ARGV[5] ~= '' then redis.call('HSET', key, 'error', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('HSET', key, 'bundle', ARGV[6]) end
if state == 'queued' then
  redis.call('HINCRBY', key, 'tries', 1)
  queue_again(id, 'running', now, now + tonumber(ARGV[8]))
else
  set_state(id, 'running', state, now)
  keep_for(id, ARGV[9])
end
return 1

--- script: release
-- ARGV: P, id, attempt. Returns 1, or 0 when the attempt is not the caller's any more.
-- Gives a job back that was not tried to its end (its worker stops): the attempt is not counted.
local id, now = ARGV[2], now_ms()
if not holds(id, ARGV[3]) then return 0 end
end_lease(id)
queue_again(id, 'running', now, now)
return 1

--- script: postpone
-- ARGV: P, id, attempt, error (JSON), delay_ms. Returns 1, or 0 when the attempt is not the caller's any more.
-- Gives a job back that could not be tried (its index is known to be down): the attempt is not counted.
local id, now = ARGV[2], now_ms()
if not holds(id, ARGV[3]) then return 0 end
end_lease(id)
redis.call('HSET', job_key(id), 'error', ARGV[4])
queue_again(id, 'running', now, now + tonumber(ARGV[5]))
return 1

--- script: reap
-- ARGV: P, limit, error (JSON), history_ms. Returns [id, state, ...] of the jobs whose lease had run out.
local now, reaped = now_ms(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))) do
  local key = job_key(id)
  end_lease(id)
  if redis.call('HGET', key, 'state') == 'running' then
    local spec = cjson.decode(redis.call('HGET', key, 'spec'))
    redis.call('HSET', key, 'error', ARGV[3])
    local state
    if tonumber(redis.call('HGET', key, 'tries')) >= spec.maxAttempts then
      state = 'failed'
      set_state(id, 'running', state, now)
      keep_for(id, ARGV[4])
    else
      state = 'queued'
      redis.call('HINCRBY', key, 'tries', 1)
      queue_again(id, 'running', now, now)
    end
    reaped[#reaped + 1] = id
    reaped[#reaped + 1] = state
  end
end
return reaped

--- script: cancel
-- ARGV: P, id, error (JSON), history_ms. Returns 1, or 0 when the job has ended already.
-- A worker that runs it learns so at its next renewal, which is refused.
local id, now = ARGV[2], now_ms()
local key = job_key(id)
local state = redis.call('HGET', key, 'state')
if state ~= 'queued' and state ~= 'running' then return 0 end
redis.call('ZREM', DUE, id)
end_lease(id)
redis.call('HSET', key, 'error', ARGV[3])
set_state(id, state, 'cancelled', now)
keep_for(id, ARGV[4])
return 1

--- script: retry
-- ARGV: P, id. Returns 1, or 0 when the job is neither failed nor cancelled. Its tries are counted anew.
local id, now = ARGV[2], now_ms()
local key = job_key(id)
local state = redis.call('HGET', key, 'state')
if state ~= 'failed' and state ~= 'cancelled' then return 0 end
local batch = batch_key(redis.call('HGET', key, 'batch'))
redis.call('HSET', key, 'tries', 1)
redis.call('HDEL', key, 'error')
redis.call('PERSIST', batch)
redis.call('PERSIST', batch .. ':jobs')
queue_again(id, state, now, now)
return 1
