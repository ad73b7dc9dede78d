-- How package indexes fare, as all workers together see it: which are down, and how many requests are on their way.
--
-- Keys (P is the prefix, ARGV[1] of every script; I is a digest of the index's address and proxy):
--
--   P:index:I        hash    what went wrong there lately             until ten times its longest pause went by
--                              failures (in a row), openings (in a row), until_ms (while nobody is to ask),
--                              probe_ms (until when one request is trusted to find out), probe (that request's
--                              random name), what (text)
--   P:index:I:slots  zset    a request's random name by the time (ms) at which its lease ends; only where the
--                            index has maxConnections               until the last lease has ended
--
-- The gateways of the workers own them; nobody else writes them. Losing them costs nothing but a few requests.
-- Each script below is preceded by this common part and named by the line that opens it.

local P, INDEX = ARGV[1], ARGV[1] .. ':index:' .. ARGV[2]
local SLOTS = INDEX .. ':slots'

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

--- script: enter
-- ARGV: P, index, slot, limit (0: none), lease_ms, pause_ms, may_probe (1 or 0). Asks whether a request may be sent.
-- Returns {'go'}; {'full'} when as many as may be are on their way; {'down', milliseconds, what} when the index is
-- down and nobody is to ask for that long. Of those who ask after that and may, one goes and finds out.
local now = now_ms()
local known = redis.call('HMGET', INDEX, 'until_ms', 'probe_ms', 'what')
if known[1] then
  local wait = math.max(tonumber(known[1]) - now, 0)
  local probing = known[2] and tonumber(known[2]) > now
  if wait == 0 and (probing or ARGV[7] == '0') then wait = tonumber(ARGV[6]) end
  if wait > 0 then return { 'down', wait, known[3] } end
end
if tonumber(ARGV[4]) > 0 then
  redis.call('ZREMRANGEBYSCORE', SLOTS, '-inf', now)
  if redis.call('ZCARD', SLOTS) >= tonumber(ARGV[4]) then return { 'full' } end
  redis.call('ZADD', SLOTS, now + tonumber(ARGV[5]), ARGV[3])
  redis.call('PEXPIRE', SLOTS, tonumber(ARGV[5]))
end
if known[1] then redis.call('HSET', INDEX, 'probe_ms', now + tonumber(ARGV[5]), 'probe', ARGV[3]) end
return { 'go' }

--- script: leave
-- ARGV: P, index, slot, outcome ('answered', 'failed' or 'unknown'), what (text), failures, first_ms, longest_ms,
-- wish_ms (0: none), at_once (1 or 0). Tells how a request ended. After that many failures in a row, or at once if the
-- index wishes to be left alone and that is reason enough, nobody is to ask for a while, which doubles when asking again
-- fails and is never shorter than wished.
redis.call('ZREM', SLOTS, ARGV[3])
if ARGV[4] == 'answered' then redis.call('DEL', INDEX) end
-- It did not find out, so that the next one may.
if ARGV[4] == 'unknown' and redis.call('HGET', INDEX, 'probe') == ARGV[3] then
  redis.call('HDEL', INDEX, 'probe_ms', 'probe')
end
if ARGV[4] ~= 'failed' then return 0 end
local now, wish = now_ms(), tonumber(ARGV[9])
local down_until = redis.call('HGET', INDEX, 'until_ms')
-- A request from before that: what it tells is known.
if down_until and tonumber(down_until) > now then return 0 end
local failures = redis.call('HINCRBY', INDEX, 'failures', 1)
local longest = tonumber(ARGV[8])
if failures >= tonumber(ARGV[6]) or (wish > 0 and ARGV[10] == '1') or down_until then
  local openings = redis.call('HINCRBY', INDEX, 'openings', 1)
  local pause = math.min(longest, tonumber(ARGV[7]) * 2 ^ math.min(openings - 1, 30))
  pause = math.floor(math.max(pause, wish))
  redis.call('HSET', INDEX, 'until_ms', now + pause, 'what', ARGV[5])
  redis.call('HDEL', INDEX, 'probe_ms', 'probe')
end
redis.call('PEXPIRE', INDEX, math.floor(longest * 10 + wish))
return 1
