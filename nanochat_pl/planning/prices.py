"""What devices cost to rent, from a dated table (prices.yaml beside this file)."""

import datetime
import functools
from dataclasses import dataclass
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("prices.yaml")


@dataclass(frozen=True)
class Offer:
    """One device for one hour.

    Attributes:
        chip: its name in `core.chips`.
        dollars: of the United States.
        date: when the provider's page said so.
    """

    chip: str
    provider: str
    dollars: float
    date: datetime.date
    terms: str
    read_by: str


@functools.cache
def offers() -> tuple[Offer, ...]:
    """The whole table, in its order."""
    return tuple(Offer(**row) for row in yaml.safe_load(FILE.read_text(encoding="utf-8")))


def usual_offer(chip: str) -> Offer | None:
    """The one that a plan reckons with; None: the table has none of this chip."""
    return next((offer for offer in offers() if offer.chip == chip), None)


def rent(offer: Offer, devices: int, seconds: float) -> str:
    """What so many devices cost for so long, with where the price is from and how old it is."""
    dollars = offer.dollars * devices * seconds / 3600
    return (
        f"about ${dollars:,.2f} at ${offer.dollars:.2f} a device and hour ({offer.provider}, {offer.date}; prices age: "
        "--price-per-hour)"
    )
