"""Each action that may be configured is registered once, with what sets it apart (SPEC section 5)."""

from __future__ import annotations

from loracore import policy
from lorad.dedupe.action.registry import ACTIONS, of_policy


def test_the_actions_are_those_of_the_configuration() -> None:
    """All but `report`, which does nothing, and which no trait is true of."""
    assert sorted(["report", *ACTIONS]) == sorted(policy.ACTIONS)
    assert sorted(name for name, each in ACTIONS.items() if each.needs_equal_bytes) == sorted(
        policy.FOR_EQUAL_BYTES
    )
    report = of_policy("report")
    assert not any((report.goes_away, report.links, report.needs_equal_bytes, report.needs_exchange))


def test_what_becomes_of_a_name() -> None:
    """It goes, or leads to the kept file; what is hidden has a name of its own until it is freed."""
    assert sorted(name for name, each in ACTIONS.items() if each.goes_away) == ["delete", "quarantine"]
    assert sorted(name for name, each in ACTIONS.items() if each.links) == ["hardlink", "reflink", "symlink"]
    assert sorted(name for name, each in ACTIONS.items() if each.needs_exchange) == ["hardlink", "symlink"]
    assert [name for name, each in ACTIONS.items() if not each.hides] == ["reflink"]
    assert {name: (each.state, each.final) for name, each in ACTIONS.items()} == {
        "delete": ("hidden", "freed"),
        "hardlink": ("hidden", "linked"),
        "quarantine": ("quarantined", "freed"),
        "reflink": ("shared", "shared"),
        "symlink": ("hidden", "freed"),
    }
