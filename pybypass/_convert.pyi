"""Between Python's values and the engine's structures. Private."""

STATE_NAMES: tuple[str, ...]
CA_STATE_NAMES: tuple[str, ...]
STATE_LINUX: tuple[int, ...]
