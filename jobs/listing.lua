-- What is listed page by page, however much there is of it: each page is one script, so one round trip.
--
-- Reads only; the keys are those of scripts.lua (P is the prefix, ARGV[1] of every script).
-- Each script below is preceded by this common part and named by the line that opens it.

local P = ARGV[1]
local function job_key(id) return P .. ':job:' .. id end
local function batch_key(id) return P .. ':batch:' .. id end

--- script: batches
-- ARGV: P, limit, after_ms ('' to begin), after (a batch id). Returns [id, [field, value, ...], id, ...], newest first.
-- Those whose history has expired are left out, and do not count.
local found, limit, all = {}, tonumber(ARGV[2]), P .. ':batches'
local first = 0
if ARGV[3] ~= '' then
  local rank = redis.call('ZREVRANK', all, ARGV[4])
  -- A batch that is gone from the list left its time behind.
  first = rank and rank + 1 or redis.call('ZCOUNT', all, ARGV[3], '+inf')
end
while #found < 2 * limit do
  local ids = redis.call('ZREVRANGE', all, first, first + limit - 1)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    local fields = redis.call('HGETALL', batch_key(id))
    if #fields > 0 and #found < 2 * limit then
      found[#found + 1] = id
      found[#found + 1] = fields
    end
  end
  first = first + #ids
end
return found

--- script: jobs
-- ARGV: P, batch, limit, state ('' for all), kind, index, text (lower case), sort (submitted, requirement, state or updated),
-- descending (1 or 0), after ('' to begin, else JSON of [value, position] of the last job that was seen).
-- Returns nil when there is no such batch, else [JSON of [value, position], id, [field, value, ...], ...] in order.
-- Costs a look at every job of the batch; sorted as submitted, only at as many as it takes to fill the page.
local batch, limit, state, kind, index, text = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local by, descending = ARGV[8], ARGV[9] == '1'
local after = ARGV[10] ~= '' and cjson.decode(ARGV[10]) or nil
if redis.call('EXISTS', batch_key(batch)) == 0 then return nil end

local members = batch_key(batch) .. ':jobs'
local total = redis.call('LLEN', members)

-- Only as far as the first character that JSON writes as two: the order among such is that of the submission.
local function requirement(spec) return string.lower(string.match(spec, '"requirement":"([^"\\]*)') or '') end

local function wanted(fields, name)
  if not fields[1] then return false end
  if state ~= '' and fields[1] ~= state then return false end
  if text ~= '' and not string.find(name, text, 1, true) then return false end
  if kind == '' and index == '' then return true end
  if not fields[3] then return false end
  local failure = cjson.decode(fields[3])
  if kind ~= '' and failure.kind ~= kind then return false end
  return index == '' or failure.index == index
end

local function value(fields, name, position)
  if by == 'requirement' then return name end
  if by == 'updated' then return tonumber(fields[4]) end
  if by == 'state' then return fields[1] end
  return position
end

local function before(one, one_position, other, other_position)
  if one ~= other then
    if descending then return one > other end
    return one < other
  end
  return one_position < other_position
end

-- Holds the first ones of those seen so far, in order.
local kept = {}
local function keep(one, position, id)
  local last = kept[limit]
  if last and not before(one, position, last[1], last[2]) then return end
  local low, high = 1, #kept + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if before(one, position, kept[middle][1], kept[middle][2]) then high = middle else low = middle + 1 end
  end
  table.insert(kept, low, { one, position, id })
  kept[limit + 1] = nil
end

-- No more than is looked at, since there may be ten thousand jobs.
local by_name, by_error = by == 'requirement' or text ~= '', kind ~= '' or index ~= ''
local asked = { 'state', by_name and 'spec' or 'state', by_error and 'error' or 'state', 'updated_ms' }
if by ~= 'updated' then asked[4] = nil end
if not by_error and by ~= 'updated' then asked[3] = nil end
if not by_name and not asked[3] then asked[2] = nil end

local function look(position, id)
  local fields = redis.call('HMGET', job_key(id), unpack(asked))
  local name = fields[1] and by_name and requirement(fields[2]) or ''
  if not wanted(fields, name) then return end
  local one = value(fields, name, position)
  if not after or before(after[1], after[2], one, position) then keep(one, position, id) end
end

-- From the end if that is wanted first: also of what changed, the newest is more often there.
local CHUNK = 500
local first, last = 0, total - 1
if by == 'submitted' and after then
  -- A cursor may be made up: what is looked at stays within the list.
  if descending then last = math.min(last, after[2] - 1) else first = after[2] + 1 end
end
while first <= last and not (by == 'submitted' and #kept >= limit) do
  local from, to = first, math.min(last, first + CHUNK - 1)
  if descending then from, to = math.max(first, last - CHUNK + 1), last end
  local ids = redis.call('LRANGE', members, from, to)
  if descending then
    for offset = #ids, 1, -1 do look(from + offset - 1, ids[offset]) end
    last = from - 1
  else
    for offset, id in ipairs(ids) do look(from + offset - 1, id) end
    first = to + 1
  end
end

local found = {}
for _, entry in ipairs(kept) do
  found[#found + 1] = cjson.encode({ entry[1], entry[2] })
  found[#found + 1] = entry[3]
  found[#found + 1] = redis.call('HGETALL', job_key(entry[3]))
end
return found

--- script: failures
-- ARGV: P, batch. Returns nil when there is no such batch, else [error (JSON), id, ...] of the jobs that have failed.
if redis.call('EXISTS', batch_key(ARGV[2])) == 0 then return nil end
local found = {}
for _, id in ipairs(redis.call('SMEMBERS', batch_key(ARGV[2]) .. ':failed')) do
  local failure = redis.call('HGET', job_key(id), 'error')
  if failure then
    found[#found + 1] = failure
    found[#found + 1] = id
  end
end
return found
