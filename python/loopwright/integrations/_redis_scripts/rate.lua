-- A rate: GCRA, with its one number on the server. Whoever has to wait is told until when, and that place is theirs: in
-- the order in which the server was asked, with nothing to ask again.
--
-- KEYS  1 tat: the theoretical arrival time, in microseconds
--       2 holes: a sorted set, places that were given back before their time: `weight.number` -> when
-- ARGV  1 command, 2 now (empty: the server's clock), 3 microseconds of one unit, 4 burst in units, and then what the
--       command takes
--
-- The algorithm is that of ATM's traffic management (ITU-T I.371): `tat` is when the bucket is full again; n units go
-- at `tat + n * unit - burst * unit`, or at once when that has passed.

local stored, holes = KEYS[1], KEYS[2]
local command, now, unit, burst = ARGV[1], moment(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

-- A fraction of a microsecond matters at high rates; a double has two bits for it.
local function exact(number) return string.format('%.2f', number) end

local function arrival() return math.max(now, tonumber(redis.call('GET', stored) or '0')) end

local function store(tat)
  if tat <= now then
    redis.call('DEL', stored)
  else
    redis.call('SET', stored, exact(tat), 'PX', math.ceil((tat - now) / 1000) + 1000)
  end
end

-- When n units may go, and what `tat` is then.
local function place(n)
  local tat = arrival() + n * unit
  return tat - burst * unit, tat
end

-- The earliest place that was given back and is large enough, before `last`. What is over of it stays.
local function take_hole(n, last)
  redis.call('ZREMRANGEBYSCORE', holes, '-inf', '(' .. exact(now))
  local found = redis.call('ZRANGEBYSCORE', holes, exact(now), exact(last), 'WITHSCORES', 'LIMIT', 0, 100)
  for i = 1, #found, 2 do
    local weight, mark = string.match(found[i], '^(.-)/(.*)$')
    local left = tonumber(weight) - n
    if left >= 0 then
      redis.call('ZREM', holes, found[i])
      if left > 0 then redis.call('ZADD', holes, found[i + 1], left .. '/' .. mark) end
      return tonumber(found[i + 1])
    end
  end
end

-- An answer, and at its end how long until the burst is whole again.
local function answer(granted, delay, at, tat)
  return { granted, math.ceil(delay), at, tat, math.ceil(arrival() - now) }
end

local commands = {}

-- units, the most microseconds to wait (-1: any). Answers whether it was granted, how long to wait, and for `undo` the
-- place and the `tat` of it.
function commands.take(units, patience)
  local n, longest = tonumber(units), tonumber(patience)
  local at, tat = place(n)
  if at <= now then
    store(tat)
    return answer(1, 0, exact(now), exact(tat))
  end
  local last = longest < 0 and at or math.min(at, now + longest)
  local hole = take_hole(n, last)
  if hole then return answer(1, hole - now, exact(hole), '0') end
  if at > last then return answer(0, at - now, '0', '0') end
  store(tat)
  return answer(1, at - now, exact(at), exact(tat))
end

-- units: how long they would have to wait.
function commands.ask(units)
  local at = place(tonumber(units))
  return answer(0, math.max(0, at - now), '0', '0')
end

-- units, place, tat, a mark of its own: nobody goes there. The last place is taken back; one in the middle is left for
-- whoever asks next. One that has passed is lost: to use it later could let too many go in some window.
function commands.undo(units, at, tat, mark)
  local n = tonumber(units)
  if redis.call('GET', stored) == tat then
    store(tonumber(tat) - n * unit)
  elseif tonumber(at) >= now then
    redis.call('ZADD', holes, at, units .. '/' .. mark)
    keep({ holes }, tonumber(at) - now + 1000000)
  end
  return answer(1, 0, '0', '0')
end

return commands[command](unpack(ARGV, 5))
