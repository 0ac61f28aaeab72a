"""Simulated time beside a cluster that works in real time.

While the control plane works a simulated second is a real one: what a scheduler, the API server and kwok take counts in
full. While nothing is to be done time jumps to the next event: a month of idle waiting costs nothing. Pure: readings of
the real clock come in. Invariant: simulated time never goes back.
"""


class WorkClock:
    """See the module's docstring. Seconds."""

    def __init__(self, wall: float) -> None:
        self._offset = -wall
        self._latest = 0.0
        self.skipped = 0.0

    def now(self, wall: float) -> float:
        """Simulated time at a reading of the real clock."""
        self._latest = max(self._latest, wall + self._offset)
        return self._latest

    def jump(self, to: float, wall: float) -> None:
        """Nothing happens before `to`: be there at once. Earlier times are ignored."""
        ahead = to - self.now(wall)
        if ahead > 0:
            self._offset += ahead
            self._latest = to
            self.skipped += ahead
