"""The demo's figures: what counts as held, and that a failed claim fails the demo."""

from headrace.demo.record import JobRecord, Story
from headrace.demo.train import draw_windows


def a_record() -> JobRecord:
    record = JobRecord("j")
    record.events["j-worker-0-a0"] = [
        {"event": "read", "at": 1.0, "bytes": 10, "seconds": 2.0},
        {"event": "step", "at": 2.0, "step": 1, "loss": 5.0},
    ]
    record.events["j-worker-1-a0"] = [{"event": "read", "at": 1.0, "bytes": 20, "seconds": 3.0}]
    record.events["j-worker-0-a1"] = [{"event": "step", "at": 9.0, "step": 2, "loss": 4.0}]
    return record


def test_the_slower_process_decides_how_long_the_first_pass_took() -> None:
    record = a_record()
    assert (record.read_seconds(), record.read_bytes()) == (3.0, 30)


def test_losses_are_kept_apart_by_attempt() -> None:
    record = a_record()
    assert (record.losses(0), record.losses(1)) == ({1: 5.0}, {2: 4.0})


def told(*claims: bool) -> Story:
    story = Story()
    for held in claims:
        story.claim("a claim", held, "")
    return story


def test_one_claim_that_did_not_hold_fails_the_demo_and_so_does_no_claim_at_all() -> None:
    assert told(True, True).all_held
    assert not told(True, False).all_held
    assert not told().all_held


def test_a_step_draws_the_same_windows_again_after_a_restart() -> None:
    import numpy as np

    corpus = np.arange(4096, dtype=np.uint8)
    assert (draw_windows(corpus, 7, 0, 5) == draw_windows(corpus, 7, 0, 5)).all()
    assert (draw_windows(corpus, 7, 0, 5) != draw_windows(corpus, 8, 0, 5)).any()
