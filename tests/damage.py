"""Damage that comes to files: bits turned, bytes lost, bytes put in."""

from hypothesis import strategies as st


@st.composite
def damaged(draw, data):
    """Draw other bytes than the given ones, which they come from by a few changes."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        match draw(st.sampled_from(["turn", "cut", "insert", "end"])):
            case "turn" if changed:
                changed[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del changed[place : place + draw(st.integers(1, 64))]
            case "insert":
                changed[place:place] = draw(st.binary(min_size=1, max_size=16))
            case "end":
                del changed[place:]
    return bytes(changed)
