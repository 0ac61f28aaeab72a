"""What a campaign of kills tells of the calls it timed."""

from tests.kills.stalls import HEAD, Call, Death, rows


def test_calls_that_waited_in_a_death_are_told_from_the_others() -> None:
    deaths = [Death("kill", 10.0, 10.5), Death("stop", 20.0, 20.7)]
    calls = [
        *(Call("fsync", 9.0, 1.5), Call("fsync", 10.4, 0.25), Call("fsync", 20.75, 2.0)),
        *(Call("fsync", 5.0, 0.5), Call("fsync", 5.0, 0.5), Call("read", 10.2, 10.4)),
    ]
    found = {row.what: row for row in rows({"read": 30, "fsync": 7, "open": 9}, calls, deaths)}
    assert list(found) == ["fsync", "open", "read"]
    assert (found["fsync"].calls, found["fsync"].met, found["fsync"].others) == (7, [0.25, 1.5], [0.5, 0.5, 2.0])
    assert (found["open"].calls, found["open"].met, found["open"].others) == (9, [], [])
    assert found["fsync"].line().split() == ["fsync", "7", "2", "0.25", "1.50", "1.50", "1", "1.50", "2.00", "1"]
    assert found["open"].line().split() == ["open", "9", "0", "-", "-", "-", "0", "0.00", "-", "0"]
    assert found["read"].per_death == 5.2
    assert all(len(row.line()) == len(HEAD) for row in found.values())
