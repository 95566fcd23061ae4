"""The balances projector with a mistake in it, for tests of how one is put right: it takes no notice of refunds."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from projectors import __main__, balances
from schemas.events import Event, MoneyRefunded

right = balances.sets


def wrong(event: Event) -> Mapping[str, int | str]:
    return {} if isinstance(event, MoneyRefunded) else right(event)


if __name__ == "__main__":
    balances.sets = wrong
    sys.exit(__main__.main())
