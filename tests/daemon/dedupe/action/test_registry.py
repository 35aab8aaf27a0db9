"""Each action that may be configured is registered once, with what sets it apart (SPEC section 5)."""

from __future__ import annotations

from loracore import policy
from lorad.dedupe.action.registry import ACTIONS, goes_away, keeps_name, needs_equal_bytes, works_in_place


def test_the_actions_are_those_of_the_configuration() -> None:
    """All but `report`, which does nothing, and which no trait is true of."""
    assert sorted(["report", *ACTIONS]) == sorted(policy.ACTIONS)
    assert sorted(filter(needs_equal_bytes, policy.ACTIONS)) == sorted(policy.FOR_EQUAL_BYTES)
    assert not any(each("report") for each in (goes_away, keeps_name, works_in_place, needs_equal_bytes))


def test_what_becomes_of_a_name() -> None:
    """It goes, or leads to the kept file; what is hidden has a name of its own until it is freed."""
    assert sorted(filter(goes_away, ACTIONS)) == ["delete", "quarantine"]
    assert sorted(filter(keeps_name, ACTIONS)) == ["hardlink", "reflink", "symlink"]
    assert sorted(name for name, each in ACTIONS.items() if each.needs_exchange) == ["hardlink", "symlink"]
    assert list(filter(works_in_place, ACTIONS)) == ["reflink"]
    assert {name: (each.state, each.final) for name, each in ACTIONS.items()} == {
        "delete": ("hidden", "freed"),
        "hardlink": ("hidden", "linked"),
        "quarantine": ("quarantined", "freed"),
        "reflink": ("shared", "shared"),
        "symlink": ("hidden", "freed"),
    }
