"""Refuses sub-interpreters, before anything else of the package is loaded.

The classes of ``_native`` and what it keeps belong to the process: a second interpreter would be handed objects of the first,
and some versions of Python crash on it.
"""

from __future__ import annotations

from importlib import import_module


def is_main() -> bool:
    """Whether this is the main interpreter; true where Python cannot tell, since then it cannot make others either."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True


if not is_main():
    raise ImportError("libgateway works in the main interpreter only, not in sub-interpreters", name=__package__)
