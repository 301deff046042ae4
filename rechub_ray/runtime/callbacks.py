"""What runs inside Ray Train's controller."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback


class EndOnUserError(UserCallback):  # type: ignore[misc]
    """Ends the run at an error that starting again cannot mend: the controller would retry a wrong file for ever.

    Args:
        board: the driver's actor; workers tell it of such errors before they raise them.
    """

    def __init__(self, board: Any) -> None:
        self._board = board

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """An exception here is the way to end a run."""
        import ray

        if ray.get(self._board.has_failed.remote(), timeout=30):
            raise RuntimeError("the run ended with an error that a restart cannot mend")
