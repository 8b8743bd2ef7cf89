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

-- Two numbers of the hash, kept here while the script runs.
local stored = redis.call('HMGET', info, 'taken', 'fence')
local taken, fence = tonumber(stored[1] or '0'), tonumber(stored[2] or '0')

-- What an id is, its weight and its token.
local function look_up(id)
  local found = redis.call('HMGET', info, 'n:' .. id, 't:' .. id)
  if not found[1] then return NOBODY, 0, 0 end
  if found[2] then return HELD, tonumber(found[1]), tonumber(found[2]) end
  return IN_LINE, tonumber(found[1]), 0
end

local function refresh(id) redis.call('ZADD', alive, text(now + lease), id) end

-- Takes an id out of the books.
local function leave(id)
  local is, n = look_up(id)
  redis.call('ZREM', alive, id)
  if is == HELD then taken = taken - n else redis.call('ZREM', line, id) end
  if is ~= NOBODY then redis.call('HDEL', info, 'n:' .. id, 't:' .. id) end
end

-- Writes an id down as a holder.
local function hold(id, n)
  taken, fence = taken + n, math.max(now, fence + 1)
  redis.call('HSET', info, 'taken', taken, 'fence', text(fence), 'n:' .. id, n, 't:' .. id, text(fence))
  return fence
end

-- Those whose lease is over go; then permits go to the line, in its order, as far as they reach. Gives its head.
local function serve()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', text(now))) do leave(id) end
  local head = redis.call('ZRANGE', line, 0, 0)[1]
  if (taken > 0 or head) and redis.call('EXISTS', alive) == 0 then
    -- Nobody is left. What the other keys still say was left by a server that evicts: only the token has to go on.
    redis.call('DEL', line, info)
    taken, head = 0, nil
  end
  while head do
    local _, n = look_up(head)
    if taken + n > limit then break end
    redis.call('ZREM', line, head)
    local bell = bells .. string.match(head, '^[^.]*')
    redis.call('RPUSH', bell, head .. ' ' .. text(hold(head, n)))
    redis.call('PEXPIRE', bell, math.ceil(lease / 1000))
    head = redis.call('ZRANGE', line, 0, 0)[1]
  end
  return head
end

-- Saves the two numbers, and answers how things stand: permits taken, how many are in line, and, if anybody is, in how
-- many microseconds the next lease may end.
local function summary(answer)
  redis.call('HSET', info, 'taken', taken, 'fence', text(fence))
  local waiting = redis.call('ZCARD', line)
  local first = waiting > 0 and redis.call('ZRANGE', alive, 0, 0, 'WITHSCORES')[2]
  answer[#answer + 1] = taken
  answer[#answer + 1] = waiting
  answer[#answer + 1] = first and math.max(0, tonumber(first) - now) or -1
  keep(KEYS, 2 * lease)
  return answer
end

local commands = {}

-- id, weight, 1 to stand in line. Asked twice it is answered twice, and taken once.
function commands.acquire(id, weight, wait)
  local head, n = serve(), tonumber(weight)
  local is, _, token = look_up(id)
  if is == NOBODY then
    if not head and taken + n <= limit then
      is, token = HELD, hold(id, n)
    elseif wait == '1' then
      is = IN_LINE
      redis.call('ZADD', line, redis.call('HINCRBY', info, 'ticket', 1), id)
      redis.call('HSET', info, 'n:' .. id, n)
    else
      return summary({ NOBODY, 0 })
    end
  end
  refresh(id)
  return summary({ is, token })
end

-- id, weight: it goes on with what it had before the server lost its data, whoever else came meanwhile.
function commands.adopt(id, weight)
  if look_up(id) == NOBODY then hold(id, tonumber(weight)) end
  refresh(id)
  serve()
  local is, _, token = look_up(id)
  return summary({ is, token })
end

-- id, the weight that it keeps.
function commands.release(id, kept)
  local is, n, token = look_up(id)
  local keeps = tonumber(kept)
  if keeps == 0 then
    leave(id)
  elseif is == HELD and keeps < n then
    taken = taken + keeps - n
    redis.call('HSET', info, 'n:' .. id, keeps)
  end
  serve()
  return summary({ is, token })
end

-- ids: each is alive. One that is late and that nobody has missed stays.
function commands.beat(...)
  local ids, answer = { ... }, {}
  for _, id in ipairs(ids) do
    if look_up(id) ~= NOBODY then refresh(id) end
  end
  serve()
  for _, id in ipairs(ids) do
    local is, _, token = look_up(id)
    answer[#answer + 1] = is
    answer[#answer + 1] = token
  end
  return summary(answer)
end

return commands[command](unpack(ARGV, 6))
