"""Wrong settings are told together, so that a person fixes them in one go.

`settings` collects `ConfigError` values where it finds them and raises one
`ConfigError` for the lot; a single problem keeps its own key and text.
"""

from __future__ import annotations

from collections.abc import Sequence

from trunnel.errors import ConfigError


def raise_together(problems: Sequence[ConfigError]) -> None:
    """Raise what is in *problems*; returns if it is empty.

    Raises:
        ConfigError: The only problem itself, or one that lists them all, a
            line each.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    listed = "\n".join(f"- {problem}" for problem in problems)
    raise ConfigError("", f"{len(problems)} settings are wrong:\n{listed}")
