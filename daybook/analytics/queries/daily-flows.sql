-- What went in and out on each day, by currency: the day on which it was recorded, or since when it counts.
-- A transfer goes out where it was sent and in where it was received, or where it came back to.
WITH movements AS (
    SELECT *, CASE WHEN $effective THEN effective_at ELSE recorded_at END AS moment
    FROM account_events
    WHERE balance_before IS NOT NULL
        AND ($effective OR (recorded_at >= $since AND recorded_at < $until))
        AND ($currency IS NULL OR currency = $currency)
)
SELECT
    CAST(moment AS DATE) AS day,
    currency,
    coalesce(sum(amount) FILTER (event_type = 'MoneyDeposited'), 0) AS deposited,
    coalesce(sum(amount) FILTER (event_type = 'MoneyRefunded'), 0) AS refunded,
    coalesce(sum(amount) FILTER (event_type = 'MoneyWithdrawn'), 0) AS withdrawn,
    coalesce(sum(amount) FILTER (event_type = 'TransferReceived'), 0) AS received,
    coalesce(sum(amount) FILTER (event_type = 'TransferReturned'), 0) AS returned,
    coalesce(sum(amount) FILTER (event_type = 'TransferSent'), 0) AS sent,
    sum(balance_after - balance_before) AS net,
    count(*) AS movements
FROM movements
WHERE moment >= $since
    AND moment < $until
GROUP BY ALL
ORDER BY day, currency
