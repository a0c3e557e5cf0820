"""One exception type for everything a user can put right: the message is the whole explanation."""
from __future__ import annotations

import sys
from typing import Callable


class RecipeError(Exception):
    """A mistake outside the code (config, corpus, checkpoint); str(e) says what was expected, found and to do."""


def run_main(main: Callable[[], None]) -> None:
    """Run a command's main(); a RecipeError becomes one line on stderr and exit status 1, never a traceback."""
    try:
        main()
    except RecipeError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
