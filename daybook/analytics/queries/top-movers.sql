-- The accounts whose balance changed most, up or down, by currency.
SELECT
    currency,
    account_id,
    sum(balance_after - balance_before) AS net,
    coalesce(sum(amount) FILTER (balance_after > balance_before), 0) AS money_in,
    coalesce(sum(amount) FILTER (balance_after < balance_before), 0) AS money_out,
    count(*) AS movements
FROM account_events
WHERE balance_before IS NOT NULL
    AND recorded_at >= $since
    AND recorded_at < $until
    AND ($currency IS NULL OR currency = $currency)
GROUP BY currency, account_id
QUALIFY row_number() OVER (PARTITION BY currency ORDER BY abs(net) DESC, account_id) <= $count
ORDER BY currency, abs(net) DESC, account_id
