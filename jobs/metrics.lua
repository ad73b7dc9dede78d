-- What the processes of an agent have counted, added up.
--
-- Keys (P is the prefix, A an agent's nickname, D a random name of a process):
--
--   P:metrics:A         hash    a number for each counter, see metrics.py; gone KEPT after it was last written to
--   P:metrics:A:D       string  the number of the last report of this process; gone KEPT after it was written
--
-- The processes of the agent own them; nobody else writes them. Losing them sets the counters back to zero.
-- Each script below is preceded by this common part and named by the line that opens it.

local TOTALS = ARGV[1] .. ':metrics:' .. ARGV[2]

--- script: add
-- ARGV: P, agent, process, number of the report, kept_ms, JSON list of field, number, field, number, ...
-- Returns 1, or 0 when this report was added before: its answer may have been lost on the way.
local seen = TOTALS .. ':' .. ARGV[3]
if tonumber(redis.call('GET', seen) or 0) >= tonumber(ARGV[4]) then return 0 end
redis.call('SET', seen, ARGV[4], 'PX', ARGV[5])
local told = cjson.decode(ARGV[6])
for at = 1, #told, 2 do redis.call('HINCRBYFLOAT', TOTALS, told[at], told[at + 1]) end
redis.call('PEXPIRE', TOTALS, ARGV[5])
return 1
