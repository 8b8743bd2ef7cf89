-- The books of a semaphore (a lock is one with a single permit): who holds permits, who stands in line, until when each
-- of them is believed to be alive.
--
-- KEYS  1 alive: a sorted set, id -> when its lease ends, for holders and for those in line
--       2 line: a sorted set, id -> ticket
--       3 info: a hash: `taken` (permits held), `ticket` and `fence` (the last ones given), and for each id its weight
--         `n:id` and, once it holds, its fencing token `t:id`
-- ARGV  1 command, 2 now (empty: the server's clock), 3 limit, 4 lease in microseconds, 5 the beginning of the names of
--       the bells, and then what the command takes
--
-- An id is `client.number`. A client hears of a permit by its bell, a list that it takes from with BLPOP: nothing is
-- lost while it does not listen. The bells are beside the keys, in the same slot of a cluster.
--
-- A fencing token is no less than the time in microseconds, so it grows although the data of a server are lost.

local alive, line, info = KEYS[1], KEYS[2], KEYS[3]
local command, now, limit, lease, bells = ARGV[1], moment(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local HELD, IN_LINE, NOBODY = 1, 0, -1

local function number(field) return tonumber(redis.call('HGET', info, field) or '0') end

local function refresh(id) redis.call('ZADD', alive, text(now + lease), id) end

-- Takes an id out of the books.
local function leave(id)
  redis.call('ZREM', alive, id)
  local waited = redis.call('ZREM', line, id) == 1
  local n = number('n:' .. id)
  if n > 0 and not waited then redis.call('HINCRBY', info, 'taken', -n) end
  redis.call('HDEL', info, 'n:' .. id, 't:' .. id)
end

-- Writes an id down as a holder.
local function hold(id, n)
  local token = math.max(now, number('fence') + 1)
  redis.call('HINCRBY', info, 'taken', n)
  redis.call('HSET', info, 'fence', text(token), 'n:' .. id, n, 't:' .. id, text(token))
  return token
end

-- Those whose lease is over go; then permits go to the line, in its order, as far as they reach.
local function serve()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', text(now))) do leave(id) end
  if redis.call('EXISTS', alive) == 0 then
    -- Nobody is left. What the hash still says was left by a server that evicts keys: only the token has to go on.
    local fence = number('fence')
    redis.call('DEL', line, info)
    if fence > 0 then redis.call('HSET', info, 'fence', text(fence)) end
  end
  while true do
    local id = redis.call('ZRANGE', line, 0, 0)[1]
    if not id then return end
    local n = number('n:' .. id)
    if number('taken') + n > limit then return end
    redis.call('ZREM', line, id)
    local token = hold(id, n)
    local bell = bells .. string.match(id, '^[^.]*')
    redis.call('RPUSH', bell, id .. ' ' .. text(token))
    redis.call('PEXPIRE', bell, math.ceil(lease / 1000))
  end
end

local function state(id)
  if redis.call('ZSCORE', line, id) then return IN_LINE, 0 end
  local token = number('t:' .. id)
  if token > 0 then return HELD, token end
  return NOBODY, 0
end

-- How things stand: permits taken, how many are in line, and in how many microseconds the next lease may end.
local function summary(answer)
  local first = redis.call('ZRANGE', alive, 0, 0, 'WITHSCORES')[2]
  answer[#answer + 1] = number('taken')
  answer[#answer + 1] = redis.call('ZCARD', line)
  answer[#answer + 1] = first and math.max(0, tonumber(first) - now) or -1
  keep(KEYS, 2 * lease)
  return answer
end

local commands = {}

-- id, weight, 1 to stand in line. Asked twice it is answered twice, and taken once.
function commands.acquire(id, weight, wait)
  local n = tonumber(weight)
  serve()
  if state(id) == NOBODY then
    if redis.call('ZCARD', line) == 0 and number('taken') + n <= limit then
      hold(id, n)
    elseif wait == '1' then
      redis.call('ZADD', line, redis.call('HINCRBY', info, 'ticket', 1), id)
      redis.call('HSET', info, 'n:' .. id, n)
    else
      return summary({ NOBODY, 0 })
    end
  end
  refresh(id)
  return summary({ state(id) })
end

-- id, weight: it goes on with what it had before the server lost its data, whoever else came meanwhile.
function commands.adopt(id, weight)
  if state(id) == NOBODY then hold(id, tonumber(weight)) end
  refresh(id)
  serve()
  return summary({ state(id) })
end

-- id, the weight that it keeps.
function commands.release(id, kept)
  local was, token = state(id)
  local n, keeps = number('n:' .. id), tonumber(kept)
  if was == HELD and keeps > 0 and keeps < n then
    redis.call('HINCRBY', info, 'taken', keeps - n)
    redis.call('HSET', info, 'n:' .. id, keeps)
  elseif keeps == 0 then
    leave(id)
  end
  serve()
  return summary({ was, token })
end

-- ids: each is alive. One that is late and that nobody has missed stays.
function commands.beat(...)
  local ids, answer = { ... }, {}
  for _, id in ipairs(ids) do
    if state(id) ~= NOBODY then refresh(id) end
  end
  serve()
  for _, id in ipairs(ids) do
    local is, token = state(id)
    answer[#answer + 1] = is
    answer[#answer + 1] = token
  end
  return summary(answer)
end

return commands[command](unpack(ARGV, 6))
