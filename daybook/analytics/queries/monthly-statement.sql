-- An account's movements in a month, between the balance it began with and the one it ended with.
WITH movements AS (
    SELECT *
    FROM account_events
    WHERE account_id = $account
        AND balance_after IS NOT NULL
        AND recorded_at < $until
),
opening AS (
    SELECT max_by(currency, sequence) AS currency, max_by(balance_after, sequence) AS balance
    FROM movements
    WHERE recorded_at < $since
),
lines AS (
    SELECT
        sequence,
        recorded_at,
        event_type AS what,
        balance_after - balance_before AS amount,
        balance_after AS balance,
        currency,
        user_id AS who,
        reason AS why,
        coalesce(to_account_id, from_account_id) AS counterparty
    FROM movements
    WHERE recorded_at >= $since
    UNION ALL
    SELECT 0, $since, 'opening balance', NULL, balance, currency, NULL, NULL, NULL
    FROM opening
    WHERE currency IS NOT NULL
)
SELECT recorded_at, what, amount, balance, currency, who, why, counterparty
FROM lines
ORDER BY sequence
