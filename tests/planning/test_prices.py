"""The table of rental prices: of chips that are known, dated, and there for every GPU that has a profile."""

import datetime
import re

from nanochat_pl.config.compose import CONF_FOLDER
from nanochat_pl.core.chips import CHIPS
from nanochat_pl.planning.prices import offers, rent, usual_offer


def test_every_offer_is_of_a_known_chip_and_dated() -> None:
    assert len(offers()) > 10
    for offer in offers():
        assert offer.chip in CHIPS
        assert isinstance(offer.date, datetime.date) and offer.date >= datetime.date(2026, 1, 1)
        assert 0.1 < offer.dollars < 20
        assert offer.provider and offer.terms and offer.read_by


def test_every_gpu_with_a_profile_has_an_offer() -> None:
    profiles = [path.read_text() for path in (CONF_FOLDER / "hw").glob("*.yaml")]
    chips = {match[1] for text in profiles if (match := re.search(r"^  chip: ([A-Z].*)$", text, re.MULTILINE))}
    assert {"H100", "RTX 5090"} <= chips
    assert all(usual_offer(chip) for chip in chips)
    assert usual_offer("Apple M4") is None


def test_the_rent_names_the_price_its_provider_and_its_day() -> None:
    offer = offers()[0]
    text = rent(offer, devices=8, seconds=1800)
    assert f"${offer.dollars * 4:,.2f}" in text
    assert offer.provider in text and str(offer.date) in text and "prices age" in text
