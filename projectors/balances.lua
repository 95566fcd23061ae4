#!lua name=daybook

-- What the balances projector and its rebuild do to Redis, each in one atomic step. `projectors/balances.py` and
-- `projectors/balances_rebuild.py` are the only callers.
--
-- Lua's numbers are doubles. So balances, times and offsets stay the strings they come as and are compared for
-- equality, or digit by digit; only sequences, which count events from 1, are turned into numbers.

-- Applying a batch, or one of its parts. KEYS[1] is the checkpoint's hash, KEYS[2] the hold, KEYS[3] the hash of batches
-- under way, KEYS[4..n] are the `balance:<account id>` hashes. ARGV[1] names the log, ARGV[2] the partition, ARGV[3] the
-- checkpoint that the batch builds on, ARGV[4] the one to store with its effects. ARGV[5] says which part was applied
-- before this one (nothing: this is the first), ARGV[6] which one this is (nothing: it is the last). Then, for each
-- account: the sequences of its first and its newest event in the batch, the time of the newest, and the balance,
-- currency, status and money in transit that the events set. An empty argument stands for none.
local ARGUMENTS_PER_ACCOUNT = 7
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

local function set(key, sequence, updated_at, balance, currency, status, in_transit)
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
  if in_transit ~= '' then
    fields[#fields + 1] = 'in_transit_minor'
    fields[#fields + 1] = in_transit
  end
  redis.call('HSET', key, unpack(fields))
end

-- Replies {'applied'}, {'foreign', log}, {'held'}, {'moved', checkpoint} or {'gap', key, sequence}. A batch that was
-- begun is not held, so that the accounts do not stay ahead of the checkpoint. After a gap, or without the last part,
-- accounts are already set; that does no harm, since the checkpoint is stored last.
local function apply_balances(keys, args)
  local log, partition, base, next_offset, before, this = args[1], args[2], args[3], args[4], args[5], args[6]
  local stored = redis.call('HMGET', keys[1], 'log', partition)
  if stored[1] and stored[1] ~= log then
    return {'foreign', stored[1]}
  end
  if before == '' and redis.call('EXISTS', keys[2]) == 1 then
    return {'held'}
  end
  if (stored[2] or '') ~= base or (before ~= '' and redis.call('HGET', keys[3], partition) ~= before) then
    return {'moved', stored[2] or ''}
  end
  local at = 7
  for i = 4, #keys do
    local key, first, newest = keys[i], tonumber(args[at]), tonumber(args[at + 1])
    local known = redis.call('HMGET', key, 'sequence', 'currency')
    local sequence = tonumber(known[1] or '0')
    if first > sequence + 1 then
      return {'gap', key, known[1] or '0'}
    end
    if newest > sequence then
      local balance, currency, status = args[at + 3], args[at + 4], args[at + 5]
      set(key, args[at + 1], args[at + 2], balance, currency, status, args[at + 6])
      rank(key, currency ~= '' and currency or known[2], balance, status)
    end
    at = at + ARGUMENTS_PER_ACCOUNT
  end
  if this ~= '' then
    redis.call('HSET', keys[3], partition, this)
    return {'applied'}
  end
  redis.call('HDEL', keys[3], partition)
  if next_offset ~= base then
    redis.call('HSET', keys[1], 'log', log, partition, next_offset)
  end
  return {'applied'}
end

-- Reading accounts: KEYS are `balance:<account id>` hashes of the selected database. Replies for each the values of
-- `sequence`, `updated_at`, `balance_minor`, `currency`, `status` and `in_transit_minor`, and the score in its
-- currency's ranking. An account from before there were transfers has nothing in transit.
local function read_balances(keys)
  local accounts = {}
  for i, key in ipairs(keys) do
    local account = redis.call('HMGET', key, 'sequence', 'updated_at', 'balance_minor', 'currency', 'status',
      'in_transit_minor')
    if account[1] and not account[6] then
      account[6] = '0'
    end
    if account[4] then
      account[7] = redis.call('ZSCORE', 'balances:' .. account[4], string.sub(key, ACCOUNT_PREFIX_LENGTH + 1))
    else
      account[7] = false
    end
    accounts[i] = account
  end
  return accounts
end

local function hash(key)
  local flat, fields = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end

-- Beginning a copy in the selected database: KEYS[1] is its mark, ARGV are the mark's fields and values. Replies how
-- many keys hinder that; it was marked only if there are none. A mark that says the same, and nothing else, hinders
-- nothing: it is from a call like this one, whose answer was lost.
local function begin_copy(keys, args)
  local found = redis.call('DBSIZE')
  if found == 1 then
    local mark = hash(keys[1])
    for i = 1, #args, 2 do
      if mark[args[i]] ~= args[i + 1] then
        return found
      end
    end
    return 0
  end
  if found == 0 then
    redis.call('HSET', keys[1], unpack(args))
  end
  return found
end

-- Offsets without leading zeros, of any length.
local function further(one, other)
  return #one > #other or (#one == #other and one > other)
end

-- Putting the copy in the live model's place. KEYS[1] is the checkpoint's hash, KEYS[2] the hold, KEYS[3] the mark of a
-- copy. ARGV[1] is the number of the live database, ARGV[2] of the copy's, ARGV[3] names the log, ARGV[4] is what
-- becomes of the old model: the state to mark it with. ARGV[5] is what the caller's hold says. Nothing is written before
-- all is known to be right.
--
-- Replies {'switched'}, {'gone'}, {'foreign', log}, {'moved', partition, live checkpoint, the copy's} or, when the live
-- model is not held by the caller, {'moved', 'hold'}: then the copy may lack what the log has got since.
local function switch(keys, args)
  local live, copy, log, old_state, hold = args[1], args[2], args[3], args[4], args[5]
  redis.call('SELECT', copy)
  local mark = hash(keys[3])
  if mark['state'] ~= 'building' then
    return {'gone'}
  end
  local built = hash(keys[1])
  redis.call('SELECT', live)
  local stored = hash(keys[1])
  if stored['log'] and stored['log'] ~= log then
    return {'foreign', stored['log']}
  end
  for partition, offset in pairs(stored) do
    if partition ~= 'log' and further(offset, built[partition] or '0') then
      return {'moved', partition, offset, built[partition] or ''}
    end
  end
  if redis.call('GET', keys[2]) ~= hold then
    return {'moved', 'hold'}
  end
  redis.call('DEL', keys[2])
  redis.call('HSET', keys[3], 'state', old_state, 'log', log, 'live', live, 'fingerprint', '')
  redis.call('SELECT', copy)
  redis.call('DEL', keys[3])
  redis.call('SWAPDB', live, copy)
  return {'switched'}
end

redis.register_function('daybook_apply_balances_3', apply_balances)
redis.register_function('daybook_begin_balances_3', begin_copy)
redis.register_function('daybook_switch_balances_3', switch)
redis.register_function{function_name = 'daybook_read_balances_3', callback = read_balances, flags = {'no-writes'}}
