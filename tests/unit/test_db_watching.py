"""What a look may leave out, and what a notification says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.runlog.db._notifying import payloads_of
from asyncstore.runlog.db._watching import SHOWN_LIMIT, Horizon

WRAP = 1 << 32


def version(pk: int, xid: int) -> int:
    return pk << 32 | xid % WRAP


class TestHorizon:
    @pytest.mark.parametrize(
        ("before", "later", "leads"),
        [
            (("s", 100), ("s", 100), True),
            (("s", 100), ("s", 5_000_000), True),
            (("s", WRAP - 1), ("s", WRAP + 10), True),
            (("s", 100), ("s", 99), False),
            (("s", 100), ("s", 100 + (1 << 31)), False),
            (("s", 100), ("s", 100 + WRAP), False),
            (("s", 100), ("t", 101), False),
        ],
    )
    def test_a_look_leads_to_later_ones_on_the_same_server(
        self, before: tuple[str, int], later: tuple[str, int], leads: bool
    ) -> None:
        assert Horizon(*before).leads_to(Horizon(*later)) is leads

    @given(xid=st.integers(3, 1 << 40), age=st.integers(1, (1 << 31) - 1), pk=st.integers(1, (1 << 31) - 1))
    def test_it_remembers_rows_of_transactions_from_its_own_on(self, xid: int, age: int, pk: int) -> None:
        horizon = Horizon("s", xid)
        new = {version(pk, xid), version(pk, xid + age)}
        assert horizon.beyond([*new, version(pk, xid - age)]) == new

    def test_it_remembers_no_more_than_a_statement_can_carry(self) -> None:
        again = [version(pk, 7) for pk in range(SHOWN_LIMIT + 5)]
        assert len(Horizon("s", 7).beyond(again)) == SHOWN_LIMIT


def test_a_notification_names_no_run() -> None:
    [one], [other] = payloads_of(["secret"]), payloads_of(["secret-2"])
    assert one != other
    assert "secret" not in one + other
    assert payloads_of(["secret"]) == [one]
    assert len(payloads_of([f"{number}" for number in range(100)])) == 100
    assert payloads_of([f"{number}" for number in range(101)]) == ["*"]
