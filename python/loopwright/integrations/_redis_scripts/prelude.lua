-- What the scripts share; put before each of them. Time is the server's, in microseconds: no client's clock is asked.

-- The moment of this call. A test says what time it is; everybody else passes an empty text.
local function moment(given)
  if given ~= '' then return tonumber(given) end
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000000 + tonumber(now[2])
end

-- A number as Redis takes it: Lua would write a large one with an exponent, and lose its end.
local function text(number) return string.format('%.0f', number) end

-- Keys go when nobody has used them for so many microseconds, or a little later; never sooner than somebody else asked
-- for.
local function keep(keys, microseconds)
  local wanted = math.ceil(microseconds / 1000)
  for _, key in ipairs(keys) do
    local left = redis.call('PTTL', key)
    if left ~= -2 and left < wanted then redis.call('PEXPIRE', key, 2 * wanted) end
  end
end
