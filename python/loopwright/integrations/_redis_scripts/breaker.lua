-- A circuit breaker: the states, windows and thresholds of loopwright.CircuitBreaker (and so of resilience4j), with its
-- books on the server. Calls that pass in the closed state are reported afterwards, many at a time; probes are asked for.
--
-- KEYS  1 state: a hash: `state`, `epoch`, `since`, `why`, `rate`, `opened`; of the window `calls`, `failures`, `slow`;
--         of the probes that have ended `probed`, `probe_failures`, `probe_slow`
--       2 window: a hash: by calls, a ring of outcomes, and `next`, `size`; by time, 32 sums, each `part calls failures
--         slow`
--       3 probes: a sorted set, id -> when nobody believes in it any more
-- ARGV  1 command, 2 now (empty: the server's clock), 3 failure rate, 4 window in calls, 5 window in microseconds (0: by
--       calls), 6 least calls, 7 slow rate (0: calls are not timed), 8 microseconds open, 9 probes, 10 microseconds for
--       which a probe is believed in, and then what the command takes
--
-- An outcome is one character: 0, plus 1 if the call failed, plus 2 if it was slow. The epoch is the number of the state,
-- and no less than the time: it grows although the data of a server are lost.

local state, window, probes = KEYS[1], KEYS[2], KEYS[3]
local command, now = ARGV[1], moment(ARGV[2])
local failure_rate, size, span, least = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local slow_rate, open_for, half_open, belief =
  tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])

local PARTS = 32

local function get(field) return tonumber(redis.call('HGET', state, field) or '0') end
local function phase() return redis.call('HGET', state, 'state') or 'closed' end

-- Begins a state, be it the same one anew.
local function go(to, why, rate)
  local from = phase()
  local opened = get('opened') + ((to == 'open' and from ~= 'open') and 1 or 0)
  local epoch = math.max(get('epoch') + 1, now)
  redis.call('DEL', state, window, probes)
  redis.call('HSET', state, 'state', to, 'epoch', text(epoch), 'since', text(now), 'why', why,
    'rate', tostring(rate or -1), 'opened', opened)
end

local function too_much(calls, failures, slow)
  if failures / calls >= failure_rate then return 'failures', failures / calls end
  if slow_rate > 0 and slow / calls >= slow_rate then return 'slow calls', slow / calls end
end

local function split(outcome) return outcome % 2, math.floor(outcome / 2) end

-- Takes what is too old out of a window by time, and gives what is left.
local function sums()
  local calls, failures, slow = 0, 0, 0
  local oldest = math.floor(now * PARTS / span) - PARTS
  local parts = redis.call('HGETALL', window)
  for i = 1, #parts, 2 do
    local part, c, f, s = string.match(parts[i + 1], '^(%d+) (%d+) (%d+) (%d+)$')
    if part and tonumber(part) > oldest then
      calls, failures, slow = calls + tonumber(c), failures + tonumber(f), slow + tonumber(s)
    else
      redis.call('HDEL', window, parts[i])
    end
  end
  return calls, failures, slow
end

local function tally()
  if phase() == 'half_open' then return get('probed'), get('probe_failures'), get('probe_slow') end
  if span > 0 then
    local calls, failures, slow = sums()
    return calls, failures, slow
  end
  return get('calls'), get('failures'), get('slow')
end

-- One outcome into the window.
local function add(outcome)
  local failed, slow = split(outcome)
  if span > 0 then
    local number = math.floor(now * PARTS / span)
    local field = tostring(number % PARTS)
    local part, c, f, s = string.match(redis.call('HGET', window, field) or '', '^(%d+) (%d+) (%d+) (%d+)$')
    if not part or tonumber(part) ~= number then c, f, s = 0, 0, 0 end
    redis.call('HSET', window, field, table.concat({ text(number), c + 1, f + failed, s + slow }, ' '))
    return
  end
  if tonumber(redis.call('HGET', window, 'size') or '-1') ~= size then
    redis.call('DEL', window) -- it is new, or who asks has another size: what is in it fits no more
    redis.call('HSET', window, 'size', size)
    redis.call('HSET', state, 'calls', 0, 'failures', 0, 'slow', 0)
  end
  local place = (redis.call('HINCRBY', window, 'next', 1) - 1) % size
  local old = redis.call('HGET', window, place)
  redis.call('HSET', window, place, outcome)
  if old then
    local old_failed, old_slow = split(tonumber(old))
    failed, slow = failed - old_failed, slow - old_slow
  else
    redis.call('HINCRBY', state, 'calls', 1)
  end
  redis.call('HINCRBY', state, 'failures', failed)
  redis.call('HINCRBY', state, 'slow', slow)
end

-- Seconds until a call may pass: 0 where calls pass, -1 where that is for others to decide.
local function retry_after()
  local is = phase()
  if is == 'closed' then return 0 end
  if is == 'open' then return math.max(0, get('since') + open_for - now) end
  if is == 'half_open' and redis.call('ZCARD', probes) + get('probed') < half_open then return 0 end
  return -1
end

local function answer(passes)
  local calls, failures, slow = tally()
  if phase() == 'isolated' then
    redis.call('PERSIST', state)
  else
    keep(KEYS, math.max(3600 * 1000000, 4 * open_for, 2 * span))
  end
  local why = redis.call('HGET', state, 'why') or 'asked'
  local rate = math.floor(tonumber(redis.call('HGET', state, 'rate') or '-1') * 1000000)
  return { passes, phase(), get('epoch'), retry_after(), calls, failures, slow, why, rate, get('opened') }
end

local commands = {}

function commands.look() return answer(0) end

-- epoch, outcomes: of calls that began in that state. In another one they are late, and say nothing.
function commands.report(epoch, outcomes)
  local since = tonumber(epoch)
  for outcome in string.gmatch(outcomes, '%d') do
    if get('epoch') ~= since or phase() ~= 'closed' then break end
    add(tonumber(outcome))
    local calls, failures, slow = tally()
    if calls >= (span > 0 and least or math.min(least, size)) then
      local why, rate = too_much(calls, failures, slow)
      if why then go('open', why, rate) end
    end
  end
  return answer(0)
end

-- id: may it pass? 1: it may, 2: as a probe, 0: it may not.
function commands.begin(id)
  if phase() == 'open' and get('since') + open_for <= now then go('half_open', 'waited') end
  if phase() == 'closed' then return answer(1) end
  if phase() == 'half_open' and retry_after() == 0 then
    redis.call('ZADD', probes, text(now + belief), id)
    return answer(2)
  end
  return answer(0)
end

-- id, outcome (`-`: none): a probe has ended. One that nobody believed in any more says nothing.
function commands.finish(id, outcome)
  if redis.call('ZREM', probes, id) == 1 and phase() == 'half_open' and outcome ~= '-' then
    local failed, slow = split(tonumber(outcome))
    local probed = redis.call('HINCRBY', state, 'probed', 1)
    local failures = redis.call('HINCRBY', state, 'probe_failures', failed)
    slow = redis.call('HINCRBY', state, 'probe_slow', slow)
    if probed >= half_open then
      local why, rate = too_much(probed, failures, slow)
      if why then go('open', why, rate) else go('closed', 'recovered') end
    end
  end
  return answer(0)
end

-- state: somebody says so.
function commands.go(to)
  go(to, 'asked')
  return answer(0)
end

redis.call('ZREMRANGEBYSCORE', probes, '-inf', text(now))
if redis.call('EXISTS', state) == 0 then
  redis.call('DEL', window, probes)
  redis.call('HSET', state, 'state', 'closed', 'epoch', text(now), 'since', text(now), 'why', 'asked')
end
return commands[command](unpack(ARGV, 11))
