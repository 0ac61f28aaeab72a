"""`python -m cacheruntime worker|controller|fsck|gc`: picks the process; each brings only what it needs."""

import logging
import os
import sys
from collections.abc import Sequence

import structlog

USAGE = "usage: python -m cacheruntime {worker,controller,fsck,gc} [options]; --help after the name lists them"


def configure_logging() -> None:
    """Events as JSON lines on standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process named first; return its exit status."""
    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    arguments = rest[:-1]
    if name == "worker":
        # numpy brings a pool of threads for linear algebra, of which there is none; a keeper forks, and has one thread.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from cacheruntime.worker.main import run as run_worker

        configure_logging()
        return run_worker(arguments)
    if name == "controller":
        from cacheruntime.controller.main import run as run_controller

        configure_logging()
        return run_controller(arguments)
    if name in ("fsck", "gc"):
        from cacheruntime.worker import fsck

        return fsck.run_fsck(arguments) if name == "fsck" else fsck.run_gc(arguments)
    print(USAGE, file=sys.stderr)
    return 0 if name in ("-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main())
