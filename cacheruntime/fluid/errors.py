"""What goes wrong at the border to Fluid; the message is one sentence for whoever wrote the objects there."""


class FluidError(Exception):
    """Something Fluid or its user has to mend, or to wait for."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
