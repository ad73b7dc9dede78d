-- The life of a job. Every change of state is one of these scripts, so it happens whole or not at all,
-- on the clock of Redis and not on that of any worker.
--
-- Keys (P is the prefix, ARGV[1] of every script; key names are made here, so Redis Cluster cannot be used,
-- as with Celery's own Redis transport):
--
--   P:job:ID            hash  what is known of a job; kept like its batch
--                               batch, lane, spec (JSON, fixed), state, attempt, tries, created_ms, queued_ms,
--                               updated_ms, worker, claimant (who holds the attempt), error (JSON), bundle (JSON),
--                               timings (JSON), progress (JSON), waiting (why no agent is given it),
--                               traceparent (by which its trace is continued, if whoever queued it sends traces)
--   P:log:ID            hash  what pip said by the number of the attempt, of the last three (logs.py); kept like its batch
--   P:batch:ID          hash  created_ms, total, schedule (its name, if one made it), unchanged (how many jobs were
--                             answered from memory), and the number of jobs in each state by its name;
--                             kept for HISTORY after its last job reached a final state
--   P:batch:ID:jobs     list  ids of its jobs, as submitted; kept like its batch
--   P:batch:ID:running  set   ids of those that run
--   P:batch:ID:failed   set   ids of those that failed; kept like its batch
--   P:batches           zset  batch id by created_ms; an id whose batch is gone is removed some time later
--   P:leases            zset  id of a running job by the time (ms) at which its lease ends
--   P:queued            int   how many jobs are queued
--   P:waiting:L         zset  id of each queued job of a priority by the time (ms) at which it came, or will be due
--   P:totals            hash  how often something has happened, for metrics.py: 'STATE KIND' is a job's end with the kind
--                             of its error, 'unchanged' one that was answered from memory, 'retry KIND' a further
--                             attempt, 'postponed KIND' one that was not made, 'lease' a lease that ran out; kept
--
-- What is to be published next is chosen in lanes, one for each priority (L is its name). In a lane the batches take
-- turns, so that a large one holds up nobody:
--
--   P:due:L:BATCH       zset  id of a queued job by the time (ms) at which a message for it is to be published
--   P:ready:L           zset  a batch with a job whose time has come, by the number of its turn
--   P:later:L           zset  a batch whose jobs all have to wait, by the time (ms) at which the first is due, or before
--   P:turn              int   the number of the last turn
--   P:bell              list  rung (one element) when a job comes that is due at once, so that a scheduler who listens
--                             need not look again and again
--
-- Schedules are manifests that are looked at again and again:
--
--   P:schedules         zset  name of a schedule by the time (ms) at which it is due
--   P:schedule:NAME     hash  specs (JSON list), packages (how many), digest (of specs and interval), interval_ms,
--                             added_ms, batch and batch_ms (its last), skipped (how often in a row it was not run
--                             because its last batch was not finished); kept until it is removed
--
-- What was published is remembered with a digest of what it was made from:
--
--   P:memory:KEY        string  a document (JSON), see memory.py; gone some time after it was last of use
--   P:memories          zset    key of each by the time (ms) at which it was last of use
--
--   P:index:…                what workers know of indexes, see traffic.lua
--   P:catalog           hash  what is published, see catalog.py
--
-- The scheduler and the workers own all of them together; nobody else writes them.
-- Each script below is preceded by this common part and named by the line that opens it.

local P = ARGV[1]
local LEASES, BATCHES, QUEUED, BELL = P .. ':leases', P .. ':batches', P .. ':queued', P .. ':bell'

local function job_key(id) return P .. ':job:' .. id end
local function log_key(id) return P .. ':log:' .. id end
local function batch_key(id) return P .. ':batch:' .. id end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function due_key(lane, batch) return P .. ':due:' .. lane .. ':' .. batch end
local function ready_key(lane) return P .. ':ready:' .. lane end
local function later_key(lane) return P .. ':later:' .. lane end

local function waiting_key(lane) return P .. ':waiting:' .. lane end

local LISTED = { running = true, failed = true }
local FINAL = { published = true, failed = true, cancelled = true }

local function count(what) redis.call('HINCRBY', P .. ':totals', what, 1) end

local function count_with_kind(what, key)
  local failure = redis.call('HGET', key, 'error')
  count(what .. ' ' .. (failure and cjson.decode(failure).kind or ''))
end

-- Moves what is counted and listed of a job's batch along with its state.
local function set_state(id, from, to, now)
  local key = job_key(id)
  local found = redis.call('HMGET', key, 'batch', 'lane')
  local batch, waiting = batch_key(found[1]), waiting_key(found[2])
  redis.call('HSET', key, 'state', to, 'updated_ms', now)
  redis.call('HINCRBY', batch, from, -1)
  redis.call('HINCRBY', batch, to, 1)
  if LISTED[from] then redis.call('SREM', batch .. ':' .. from, id) end
  if LISTED[to] then redis.call('SADD', batch .. ':' .. to, id) end
  if from == 'queued' then
    redis.call('DECR', QUEUED)
    redis.call('ZREM', waiting, id)
  end
  if to == 'queued' then
    redis.call('INCR', QUEUED)
    redis.call('ZADD', waiting, redis.call('HGET', key, 'queued_ms'), id)
  end
  if FINAL[to] then count_with_kind(to, key) end
end

local function last_in_line(lane, batch)
  redis.call('ZADD', ready_key(lane), redis.call('INCR', P .. ':turn'), batch)
end

-- Once in a script is enough: what it changes is seen as a whole.
local rung = false
local function ring()
  if rung then return end
  rung = true
  redis.call('LPUSH', BELL, 1)
  redis.call('LTRIM', BELL, 0, 0)
end

-- Sees to it that the batch gets its turn when a job of it is due.
local function wake(lane, batch, due, now)
  if due <= now then ring() end
  if redis.call('ZSCORE', ready_key(lane), batch) then return end
  if due <= now then
    redis.call('ZREM', later_key(lane), batch)
    last_in_line(lane, batch)
  else
    redis.call('ZADD', later_key(lane), 'LT', due, batch)
  end
end

local function schedule(id, due, now)
  local found = redis.call('HMGET', job_key(id), 'lane', 'batch')
  redis.call('ZADD', due_key(found[1], found[2]), due, id)
  wake(found[1], found[2], due, now)
end

-- The batch itself may keep its place in the line: it gives it up when it is found to have nothing.
local function unschedule(id)
  local found = redis.call('HMGET', job_key(id), 'lane', 'batch')
  redis.call('ZREM', due_key(found[1], found[2]), id)
end

-- A worker's right to write: the job runs, and the attempt is still the one it claimed.
local function holds(id, attempt)
  local found = redis.call('HMGET', job_key(id), 'state', 'attempt')
  return found[1] == 'running' and found[2] == attempt
end

local function end_lease(id)
  redis.call('ZREM', LEASES, id)
  redis.call('HDEL', job_key(id), 'progress', 'claimant')
end

local function keep_log(id, attempt, text)
  if (text or '') == '' then return end
  local key = log_key(id)
  redis.call('HSET', key, attempt, text)
  for _, kept in ipairs(redis.call('HKEYS', key)) do
    if tonumber(kept) <= tonumber(attempt) - 3 then redis.call('HDEL', key, kept) end
  end
end

-- Back to the queue under the next attempt, which fences whoever still works on this one.
local function queue_again(id, from, now, due)
  local key = job_key(id)
  redis.call('HINCRBY', key, 'attempt', 1)
  redis.call('HSET', key, 'queued_ms', due)
  redis.call('HDEL', key, 'worker', 'waiting')
  set_state(id, from, 'queued', now)
  schedule(id, due, now)
end

local function all_keys(batch)
  local keys = { batch, batch .. ':jobs', batch .. ':failed' }
  for _, id in ipairs(redis.call('LRANGE', batch .. ':jobs', 0, -1)) do
    keys[#keys + 1] = job_key(id)
    keys[#keys + 1] = log_key(id)
  end
  return keys
end

-- Once a batch is finished, it and all its jobs are history, and expire together.
local function expire_if_finished(id, history_ms)
  local batch = batch_key(redis.call('HGET', job_key(id), 'batch'))
  local left = redis.call('HMGET', batch, 'queued', 'running')
  if (tonumber(left[1]) or 0) + (tonumber(left[2]) or 0) > 0 then return end
  for _, key in ipairs(all_keys(batch)) do redis.call('PEXPIRE', key, history_ms) end
end

-- A finished batch that gets something to do is history no more.
local function keep(batch)
  if redis.call('PTTL', batch) < 0 then return end
  for _, key in ipairs(all_keys(batch)) do redis.call('PERSIST', key) end
end

local function forget_expired_batches()
  -- Any ten: behind the oldest, which may never finish, others would be left for ever.
  for _, batch in ipairs(redis.call('ZRANDMEMBER', BATCHES, 10)) do
    if redis.call('EXISTS', batch_key(batch)) == 0 then redis.call('ZREM', BATCHES, batch) end
  end
end

local function set_trace(id, traceparent)
  if (traceparent or '') ~= '' then redis.call('HSET', job_key(id), 'traceparent', traceparent) end
end

local function enqueue(batch, entries, now, traceparent)
  local key, added, lanes = batch_key(batch), 0, {}
  for _, entry in ipairs(entries) do
    local id, lane, spec = entry[1], entry[2], entry[3]
    if redis.call('EXISTS', job_key(id)) == 0 then
      redis.call('HSET', job_key(id), 'batch', batch, 'lane', lane, 'spec', spec, 'state', 'queued', 'attempt', 1,
        'tries', 1, 'created_ms', now, 'queued_ms', now, 'updated_ms', now)
      set_trace(id, traceparent)
      redis.call('RPUSH', key .. ':jobs', id)
      -- Jobs that are due at once are taken in the order of this score: that of the submission.
      redis.call('ZADD', due_key(lane, batch), now - #entries / 1000 + added / 1000, id)
      redis.call('ZADD', waiting_key(lane), now, id)
      lanes[lane] = true
      added = added + 1
    end
  end
  if added > 0 then
    keep(key)
    redis.call('HSETNX', key, 'created_ms', now)
    redis.call('HINCRBY', key, 'total', added)
    redis.call('HINCRBY', key, 'queued', added)
    redis.call('INCRBY', QUEUED, added)
    redis.call('ZADD', BATCHES, 'NX', now, batch)
    for lane in pairs(lanes) do wake(lane, batch, now, now) end
    forget_expired_batches()
  end
  return added
end

local SCHEDULES = P .. ':schedules'
local function schedule_key(name) return P .. ':schedule:' .. name end

local MEMORIES = P .. ':memories'
local function memory_key(key) return P .. ':memory:' .. key end

--- script: enqueue
-- ARGV: P, batch, JSON list of [id, lane, spec], traceparent (or ''). Returns how many jobs were new.
-- Adds the batch whole. A job that is there already is left as it is.
return enqueue(ARGV[2], cjson.decode(ARGV[3]), now_ms(), ARGV[4])

--- script: take
-- ARGV: P, lane, limit, again_ms. Returns [id, attempt, id, attempt, ...] of the jobs whose message is due, one of
-- each batch in turn. Each comes again after again_ms unless it was claimed meanwhile: a message may be lost.
-- Costs what limit says, however many jobs and batches there are.
local lane, limit, again, now = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), now_ms()
local ready, later, taken = ready_key(lane), later_key(lane), {}

-- As many as are to be taken: so whoever is in line first is served once at most before those that join it now.
local function wake_some()
  local woken = redis.call('ZRANGEBYSCORE', later, '-inf', now, 'LIMIT', 0, limit)
  for _, batch in ipairs(woken) do
    redis.call('ZREM', later, batch)
    last_in_line(lane, batch)
  end
  return #woken > 0
end

wake_some()
while #taken < 2 * limit do
  local batch = redis.call('ZPOPMIN', ready)[1]
  if not batch and not wake_some() then break end
  batch = batch or redis.call('ZPOPMIN', ready)[1]
  local due = due_key(lane, batch)
  local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  if first[1] and tonumber(first[2]) > now then
    redis.call('ZADD', later, first[2], batch)
  elseif first[1] then
    local id = first[1]
    local found = redis.call('HMGET', job_key(id), 'state', 'attempt')
    if found[1] == 'queued' then
      redis.call('ZADD', due, now + again, id)
      taken[#taken + 1] = id
      taken[#taken + 1] = found[2]
    else
      redis.call('ZREM', due, id)
    end
    last_in_line(lane, batch)
  end
end
return taken

--- script: claim
-- ARGV: P, id, attempt, worker, lease_ms, claimant (random). Returns [batch, spec, tries, milliseconds in the queue], or
-- nil when the job is not queued under that attempt, or its time has not come. The claimant who has it already is given
-- it again: the answer that said so may have been lost.
local id, attempt, now = ARGV[2], ARGV[3], now_ms()
local key = job_key(id)
local found = redis.call('HMGET', key, 'state', 'attempt', 'batch', 'spec', 'tries', 'queued_ms', 'claimant')
local state = found[1]
if found[2] ~= attempt then return nil end
if state == 'queued' and tonumber(found[6]) <= now then
  unschedule(id)
  redis.call('HSET', key, 'worker', ARGV[4], 'claimant', ARGV[6])
  redis.call('HDEL', key, 'timings')
  set_state(id, state, 'running', now)
elseif state ~= 'running' or found[7] ~= ARGV[6] then
  return nil
end
redis.call('ZADD', LEASES, now + tonumber(ARGV[5]), id)
return { found[3], found[4], found[5], now - tonumber(found[6]) }

--- script: renew
-- ARGV: P, id, attempt, lease_ms, progress (JSON or ''). Returns 1, or 0 when the lease is not the caller's any more.
local id = ARGV[2]
if not holds(id, ARGV[3]) then return 0 end
redis.call('ZADD', LEASES, now_ms() + tonumber(ARGV[4]), id)
if ARGV[5] ~= '' then redis.call('HSET', job_key(id), 'progress', ARGV[5]) end
return 1

--- script: finish
-- ARGV: P, id, attempt, state, error (JSON or ''), bundle (JSON or ''), timings (JSON), delay_ms, history_ms,
-- unchanged (1: the bundle was published before, and nothing was fetched), log (or ''), and for a new bundle its field
-- and entry (JSON) in the catalogue.
-- state is published or failed, or queued for another attempt after delay_ms.
-- Returns 1, or 0 when the attempt is not the caller's any more: then nothing changes but the catalogue, since the bundle
-- is in the store.
local id, state, now = ARGV[2], ARGV[4], now_ms()
local key = job_key(id)
if ARGV[12] then redis.call('HSET', P .. ':catalog', ARGV[12], ARGV[13]) end
if not holds(id, ARGV[3]) then return 0 end
end_lease(id)
keep_log(id, ARGV[3], ARGV[11])
redis.call('HSET', key, 'timings', ARGV[7])
redis.call('HDEL', key, 'error', 'bundle')
if ARGV[5] ~= '' then redis.call('HSET', key, 'error', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('HSET', key, 'bundle', ARGV[6]) end
if state == 'queued' then
  redis.call('HINCRBY', key, 'tries', 1)
  count_with_kind('retry', key)
  queue_again(id, 'running', now, now + tonumber(ARGV[8]))
else
  set_state(id, 'running', state, now)
  if ARGV[10] == '1' then
    redis.call('HINCRBY', batch_key(redis.call('HGET', key, 'batch')), 'unchanged', 1)
    count('unchanged')
  end
  expire_if_finished(id, ARGV[9])
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
-- ARGV: P, id, attempt, error (JSON), delay_ms, log (or ''). Returns 1, or 0 when the attempt is not the caller's any more.
-- Gives a job back that could not be tried (its index is known to be down): the attempt is not counted.
local id, now = ARGV[2], now_ms()
if not holds(id, ARGV[3]) then return 0 end
end_lease(id)
keep_log(id, ARGV[3], ARGV[6])
redis.call('HSET', job_key(id), 'error', ARGV[4])
count_with_kind('postponed', job_key(id))
queue_again(id, 'running', now, now + tonumber(ARGV[5]))
return 1

--- script: defer
-- ARGV: P, id, attempt, delay_ms. Returns 1, or 0 when the job is not queued under that attempt.
-- A message that was taken could not be published: it is due again then.
local found, now = redis.call('HMGET', job_key(ARGV[2]), 'state', 'attempt'), now_ms()
if found[1] ~= 'queued' or found[2] ~= ARGV[3] then return 0 end
schedule(ARGV[2], now + tonumber(ARGV[4]), now)
return 1

--- script: note
-- ARGV: P, id, text ('' when an agent can have it). Says why a queued job is not given to any agent.
local key = job_key(ARGV[2])
if redis.call('HGET', key, 'state') ~= 'queued' then return 0 end
if ARGV[3] == '' then redis.call('HDEL', key, 'waiting') else redis.call('HSET', key, 'waiting', ARGV[3]) end
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
    count('lease')
    local state
    if tonumber(redis.call('HGET', key, 'tries')) >= spec.maxAttempts then
      state = 'failed'
      set_state(id, 'running', state, now)
      expire_if_finished(id, ARGV[4])
    else
      state = 'queued'
      redis.call('HINCRBY', key, 'tries', 1)
      count_with_kind('retry', key)
      queue_again(id, 'running', now, now)
    end
    reaped[#reaped + 1] = id
    reaped[#reaped + 1] = state
  end
end
return reaped

--- script: cancel
-- ARGV: P, JSON list of ids, error (JSON), history_ms. Returns the ids of those that had not ended and now have.
-- A worker that runs one learns so at its next renewal, which is refused.
local now, changed = now_ms(), {}
for _, id in ipairs(cjson.decode(ARGV[2])) do
  local key = job_key(id)
  local state = redis.call('HGET', key, 'state')
  if state == 'queued' or state == 'running' then
    unschedule(id)
    end_lease(id)
    redis.call('HSET', key, 'error', ARGV[3])
    set_state(id, state, 'cancelled', now)
    changed[#changed + 1] = id
  end
end
-- All of one batch: it is finished with the last of them or not at all.
if #changed > 0 then expire_if_finished(changed[#changed], ARGV[4]) end
return changed

--- script: retry
-- ARGV: P, JSON list of ids of one batch, traceparent (or ''). Returns the ids of those that had failed or were
-- cancelled, and now are queued again. Their tries are counted anew.
local now, changed = now_ms(), {}
for _, id in ipairs(cjson.decode(ARGV[2])) do
  local key = job_key(id)
  local state = redis.call('HGET', key, 'state')
  if state == 'failed' or state == 'cancelled' then
    keep(batch_key(redis.call('HGET', key, 'batch')))
    redis.call('HSET', key, 'tries', 1)
    redis.call('HDEL', key, 'error', 'traceparent')
    set_trace(id, ARGV[3])
    queue_again(id, state, now, now)
    changed[#changed + 1] = id
  end
end
return changed

--- script: schedule_add
-- ARGV: P, name, specs (JSON list), packages, interval_ms, digest, delay_ms (until it is due), batch (a first one that
-- was submitted for it, or ''). Returns 'added', 'replaced', or 'unchanged' when it is there as it is.
local name, now = ARGV[2], now_ms()
local key = schedule_key(name)
local digest = redis.call('HGET', key, 'digest')
if digest ~= ARGV[6] then
  redis.call('HSET', key, 'specs', ARGV[3], 'packages', ARGV[4], 'interval_ms', ARGV[5], 'digest', ARGV[6],
    'added_ms', now, 'skipped', 0)
  redis.call('ZADD', SCHEDULES, now + tonumber(ARGV[7]), name)
end
if ARGV[8] ~= '' then
  redis.call('HSET', key, 'batch', ARGV[8], 'batch_ms', now)
  -- If its history has expired already, this would make a key that nothing removes.
  if redis.call('EXISTS', batch_key(ARGV[8])) == 1 then redis.call('HSET', batch_key(ARGV[8]), 'schedule', name) end
end
return digest == ARGV[6] and 'unchanged' or digest and 'replaced' or 'added'

--- script: schedule_remove
-- ARGV: P, name. Returns 1, or 0 when there is no such schedule. Its batches go on.
redis.call('ZREM', SCHEDULES, ARGV[2])
return redis.call('DEL', schedule_key(ARGV[2]))

--- script: schedule_due
-- ARGV: P, limit. Returns [name, due_ms, digest, specs, ...] of the schedules that are due.
local found = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', SCHEDULES, '-inf', now_ms(), 'LIMIT', 0, tonumber(ARGV[2]))) do
  local known = redis.call('HMGET', schedule_key(name), 'digest', 'specs')
  if known[1] then
    for _, value in ipairs({ name, redis.call('ZSCORE', SCHEDULES, name), known[1], known[2] }) do
      found[#found + 1] = value
    end
  else
    redis.call('ZREM', SCHEDULES, name)
  end
end
return found

--- script: schedule_run
-- ARGV: P, name, due_ms, digest, batch, JSON list of [id, lane, spec], traceparent (or ''). Returns 'queued'; 'skipped'
-- when the batch before is not finished, or when no entries are given; nil when it is not due at that time any more, or
-- not the same.
-- Whatever the answer, it will not be due at that time again.
local name, now = ARGV[2], now_ms()
local key = schedule_key(name)
local due = tonumber(redis.call('ZSCORE', SCHEDULES, name) or -1)
local known = redis.call('HMGET', key, 'digest', 'interval_ms', 'batch')
if due ~= tonumber(ARGV[3]) or known[1] ~= ARGV[4] then return nil end
local interval, entries = tonumber(known[2]), cjson.decode(ARGV[6])
-- What was missed while no scheduler ran is made up for by one run.
redis.call('ZADD', SCHEDULES, due + (math.floor((now - due) / interval) + 1) * interval, name)
local left = redis.call('HMGET', batch_key(known[3] or ''), 'queued', 'running')
if #entries == 0 or (tonumber(left[1]) or 0) + (tonumber(left[2]) or 0) > 0 then
  redis.call('HINCRBY', key, 'skipped', 1)
  return 'skipped'
end
enqueue(ARGV[5], entries, now, ARGV[7])
redis.call('HSET', batch_key(ARGV[5]), 'schedule', name)
redis.call('HSET', key, 'batch', ARGV[5], 'batch_ms', now, 'skipped', 0)
return 'queued'

--- script: recall
-- ARGV: P, key, kept_ms. Returns what is remembered under the key, which is then kept for kept_ms more, or nil.
local found = redis.call('GET', memory_key(ARGV[2]))
if found then
  redis.call('PEXPIRE', memory_key(ARGV[2]), ARGV[3])
  redis.call('ZADD', MEMORIES, now_ms(), ARGV[2])
end
return found

--- script: remember
-- ARGV: P, key, document, kept_ms, limit. Of more than limit, those go that were not of use for the longest time.
local now = now_ms()
redis.call('SET', memory_key(ARGV[2]), ARGV[3], 'PX', ARGV[4])
redis.call('ZADD', MEMORIES, now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', MEMORIES, '-inf', now - tonumber(ARGV[4]))
local excess = redis.call('ZCARD', MEMORIES) - tonumber(ARGV[5])
if excess > 0 then
  for _, key in ipairs(redis.call('ZRANGE', MEMORIES, 0, excess - 1)) do
    redis.call('DEL', memory_key(key))
    redis.call('ZREM', MEMORIES, key)
  end
end
return 1
