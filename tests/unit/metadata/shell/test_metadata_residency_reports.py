"""Reports that cannot be taken to their end: what was not counted is asked for again, and a lie is refused."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from metadata.core.residency import Held, Residence
from metadata.core.workers import Registration, WorkerReadings
from metadata.errors import InvalidRequest, Unavailable
from metadata.shell.database import Database
from metadata.shell.residency_state import ResidencyState

UID = "u"


class Flaky:
    """A database of one dataset whose reads fail or wait when told to."""

    def __init__(self) -> None:
        self.fault: Callable[[], Any] | None = None

    async def read(self, work: Any) -> Any:
        if self.fault is not None:
            await self.fault()
        return {(UID, f"f{number}"): "e" for number in range(9)}, {UID: 1}

    async def write(self, work: Any) -> None:
        """Registrations are of no interest here."""


def file(number: int, resident_bytes: int = 10, size_bytes: int = 10) -> Residence:
    return Residence(UID, f"f{number}", "e", Held("MEM", size_bytes, resident_bytes))


async def report(state: ResidencyState, sequence: int, *files: Residence, full: bool = False) -> bool:
    return await state.report("n1", 1, sequence, full=full, readings=WorkerReadings(), files=files)


async def a_state() -> tuple[ResidencyState, Flaky]:
    database = Flaky()
    state = ResidencyState(cast(Database, database), 3.0, lambda: 0.0)
    await state.register(Registration("n1", 1, "d", "c", ()))
    assert not await report(state, 1, file(0), full=True)
    assert state.ledger.totals(UID) == (10, 0)
    return state, database


async def unavailable() -> None:
    raise Unavailable("the metadata database cannot be read: it is away.")


async def waits() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_report_that_was_not_taken_makes_the_next_one_be_a_full_one(how: str) -> None:
    state, database = await a_state()
    if how == "failed":
        database.fault = unavailable
        with pytest.raises(Unavailable):
            await report(state, 2, file(1))
    else:
        # A caller's deadline ends the call wherever it is.
        database.fault = waits
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await report(state, 2, file(1))
    database.fault = None
    assert await report(state, 2, file(1)), "a retry was taken for one that had been counted"
    assert await report(state, 3, file(2))
    assert not await report(state, 4, file(0), file(1), file(2), full=True)
    assert state.ledger.totals(UID) == (30, 0)


@pytest.mark.parametrize(("resident", "size"), [(1 << 54, 1 << 54), ((1 << 64) - 1, 1), (1, (1 << 64) - 1)])
async def test_more_bytes_than_a_file_can_have_are_refused_before_anything_counts(resident: int, size: int) -> None:
    state, _ = await a_state()
    with pytest.raises(InvalidRequest, match="'f1' of the report has"):
        await report(state, 2, file(2), file(1, resident, size))
    assert state.ledger.totals(UID) == (10, 0)
    assert not await report(state, 2, file(2))
    assert state.ledger.totals(UID) == (20, 0)
