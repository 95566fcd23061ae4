"""How the activity runs: the environment variables of its own, beside `projectors.settings`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from projectors.activity.velocity import Rule
from schemas.connections import EnvironmentSettings
from schemas.money import InvalidMoney, Money


class ActivitySettings(EnvironmentSettings):
    """A field `x` is the environment variable `DAYBOOK_ACTIVITY_X`."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_ACTIVITY_")

    port: int = Field(default=16066, ge=1, le=65535)
    """Where the tables are served."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Which address of this machine they are served on."""

    hour_step_min: int = Field(default=5, ge=1, le=60)
    """How many minutes lie between the starts of two hours that are counted; an event counts in all that it is in."""

    alert_window_s: int = Field(default=60, ge=1, le=86_400)
    """The time within which withdrawals of an account count together."""

    alert_count: int = Field(default=10, ge=2, le=1000)
    """So many withdrawals within the window raise an alert. They are kept until then, hence the limit."""

    alert_sums: str = ""
    """Withdrawals within the window that come to so much raise one: amounts such as `5000.00 EUR, 800000 JPY`."""

    @field_validator("hour_step_min")
    @classmethod
    def _divides_an_hour(cls, value: int) -> int:
        if 60 % value:
            raise ValueError("use a number of minutes that divides an hour, such as 5 or 10")
        return value

    @field_validator("alert_sums")
    @classmethod
    def _is_amounts(cls, value: str) -> str:
        _sums(value)
        return value

    @property
    def rule(self) -> Rule:
        return Rule(self.alert_window_s, self.alert_count, _sums(self.alert_sums))


def _sums(text: str) -> Mapping[str, int]:
    """Minor units by currency. Raises `ValueError`."""
    sums: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            money = Money.parse(part)
        except InvalidMoney as error:
            raise ValueError(str(error)) from None
        if money.amount_minor == 0 or money.currency in sums:
            raise ValueError(f'"{part}": give each currency once, with an amount above zero')
        sums[money.currency] = money.amount_minor
    return sums
