"""Long lists in messages: the first few, and how many more."""

import pytest

from cosmos_ros.listing import listed


@pytest.mark.parametrize(
    ("n", "between", "expected"),
    [
        (0, ", ", ""),
        (2, ", ", "0, 1"),
        (3, ", ", "0, 1 and 1 more"),
        (5, "; ", "0; 1; and 3 more"),
    ],
)
def test_the_first_are_named_and_the_others_counted(n, between, expected):
    assert listed(map(str, range(n)), most=2, between=between) == expected
