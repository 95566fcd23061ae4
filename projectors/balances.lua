#!lua name=daybook

-- What the balances projector does to Redis, in one atomic step. `projectors/balances.py` is the only caller.
--
-- KEYS[1] is the checkpoint's hash, KEYS[2..n] are the `balance:<account id>` hashes of a batch.
-- ARGV[1] names the log, ARGV[2] the partition, ARGV[3] the checkpoint that the batch builds on, ARGV[4] the one to
-- store with its effects. Then, for each account: the sequences of its first and its newest event in the batch, the
-- time of the newest, and the balance, currency and status that the events set. An empty argument stands for none.
--
-- Lua's numbers are doubles. So balances, times and offsets stay the strings they come as and are compared for
-- equality alone; only sequences, which count events from 1, are turned into numbers.

local ARGUMENTS_PER_ACCOUNT = 6
local ACCOUNT_PREFIX_LENGTH = #'balance:'

-- The ranking holds doubles: it is exact up to 2^53 minor units and rounds beyond, where the hash stays exact.
local function rank(key, currency, balance, status)
  local ranking = 'balances:' .. currency
  local account = string.sub(key, ACCOUNT_PREFIX_LENGTH + 1)
  if status == 'closed' then
    redis.call('ZREM', ranking, account)
  elseif balance ~= '' then
    redis.call('ZADD', ranking, balance, account)
  end
end

local function set(key, sequence, updated_at, balance, currency, status)
  local fields = {'sequence', sequence, 'updated_at', updated_at}
  if balance ~= '' then
    fields[#fields + 1] = 'balance_minor'
    fields[#fields + 1] = balance
  end
  if currency ~= '' then
    fields[#fields + 1] = 'currency'
    fields[#fields + 1] = currency
  end
  if status ~= '' then
    fields[#fields + 1] = 'status'
    fields[#fields + 1] = status
  end
  redis.call('HSET', key, unpack(fields))
end

-- Replies {'applied'}, {'foreign', log}, {'moved', checkpoint} or {'gap', key, sequence}. After a gap, accounts
-- before it in the batch are already set; that does no harm, since the checkpoint is stored last.
local function apply_balances(keys, args)
  local log, partition, base, next_offset = args[1], args[2], args[3], args[4]
  local stored = redis.call('HMGET', keys[1], 'log', partition)
  if stored[1] and stored[1] ~= log then
    return {'foreign', stored[1]}
  end
  if (stored[2] or '') ~= base then
    return {'moved', stored[2] or ''}
  end
  local at = 5
  for i = 2, #keys do
    local key, first, newest = keys[i], tonumber(args[at]), tonumber(args[at + 1])
    local known = redis.call('HMGET', key, 'sequence', 'currency')
    local sequence = tonumber(known[1] or '0')
    if first > sequence + 1 then
      return {'gap', key, known[1] or '0'}
    end
    if newest > sequence then
      local balance, currency, status = args[at + 3], args[at + 4], args[at + 5]
      set(key, args[at + 1], args[at + 2], balance, currency, status)
      rank(key, currency ~= '' and currency or known[2], balance, status)
    end
    at = at + ARGUMENTS_PER_ACCOUNT
  end
  if next_offset ~= base then
    redis.call('HSET', keys[1], 'log', log, partition, next_offset)
  end
  return {'applied'}
end

redis.register_function('daybook_apply_balances_1', apply_balances)
