"""Between Python's values and the engine's structures. Private."""

STATE_NAMES: tuple[str, ...]
