"""Pictures that wait, are drawn together and are made visible: turns, places, what fails."""

import threading
import time

import pytest
import torch

from builders import build, models, random_cond
from smalti.engine import stream
from smalti.engine.batching import Batching, Decoder, Stopped
from smalti.engine.running import Running
from smalti.engine.step import Request
from smalti.engine.waiting import NO_PREVIEWS, Drawn, Failed, Full, Job, Late, Previews, Shown
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise

PLAIN = Decoder(lambda codes, spec: list(codes), lambda step, spec: list(step.codes))


@pytest.fixture
def model():
    return build(*models()["llamagen"])


def request_of(model, seed: int) -> Request:
    return Request(random_cond(model, 1, seed), Noise.request(seed, 1), Guidance(2.0))


def job_of(model, seed: int, **more) -> tuple[Job, list]:
    """A job, and the list into which its events go."""
    events = []
    return Job(lambda: request_of(model, seed), events.append, **more), events


def finish(batching: Batching) -> None:
    while batching.turn():
        pass


@pytest.mark.parametrize(
    ("previews", "steps", "count"),
    [
        (Previews(3), 256, 3),
        (Previews(every=16), 256, 15),
        (Previews(every=16), 22, 1),  # of fewer passes fewer
        (Previews(every=1), 256, 16),
        (Previews(every=16), 0, 0),
        (NO_PREVIEWS, 256, 0),
    ],
)
def test_how_many_pictures_on_the_way_there_are(previews, steps, count):
    assert previews.of(steps) == count


def test_what_is_drawn_is_what_is_drawn_alone(model):
    batching = Batching(Running(model), PLAIN, slots=3)
    jobs = [job_of(model, seed) for seed in range(7)]
    batching.submit([job for job, _ in jobs])
    batching.turn()
    assert (batching.drawing, batching.waiting) == (3, 4)
    finish(batching)
    for seed, (_, events) in enumerate(jobs):
        (done,) = events
        *_, last = stream(model, request_of(model, seed))
        assert torch.equal(done.result, last.codes[0])
        assert min(done.waited, done.drawing, done.decoding) >= 0
    assert batching.counts.done == 7 and batching.counts.rows == 7 * model.spec.positions


def test_clients_take_turns(model):
    """Ten of one client came first; of the first eight begun, four are the other's."""
    batching, order = Batching(Running(model), PLAIN, slots=2, queue=100), []

    def made(client, seed):
        order.append(client)
        return request_of(model, seed)

    for client, count in (("a", 10), ("b", 4)):
        jobs = [
            Job(lambda c=client, s=seed: made(c, s), lambda _: None, client)
            for seed in range(count)
        ]
        batching.submit(jobs)
    finish(batching)
    assert order[:8].count("b") == 4 and order[8:] == ["a"] * 6


def test_a_full_queue_takes_all_or_none_and_says_how_long(model):
    batching = Batching(Running(model), PLAIN, slots=1, queue=3)
    batching.submit([job_of(model, seed)[0] for seed in range(2)])
    with pytest.raises(Full, match="2 pictures wait already") as refused:
        batching.submit([job_of(model, seed)[0] for seed in range(2)])
    assert refused.value.seconds > 0 and batching.waiting == 2 and batching.counts.refused == 2
    with pytest.raises(ValueError, match="4 pictures at once; at most 3 may wait"):
        batching.submit([job_of(model, seed)[0] for seed in range(4)])  # however long one waits
    finish(batching)
    assert batching.counts.done == 2


def test_how_long_one_waits_is_counted_in_steps(model):
    batching = Batching(Running(model), PLAIN, slots=2)
    batching._seconds = 1.0
    assert batching.eta() == 16  # before any is drawn
    batching.submit([job_of(model, seed)[0] for seed in range(3)])
    assert batching.eta() == 32
    for _ in range(4):
        batching.turn()
    batching._seconds = 1.0
    assert batching.eta() == 12 + 16  # two are drawn, one waits: the fourth begins with the third


def test_each_picture_waits_for_its_own_number_of_steps(model):
    """Whatever picture made the last step."""
    batching = Batching(Running(model), PLAIN, slots=1)
    batching._seconds = 1.0
    batching.submit([job_of(model, seed, total=total)[0] for seed, total in enumerate((3, 40))])
    batching._steps = 5
    assert batching.eta() == 3 + 40 + 5


def test_places_are_held_for_pictures_that_are_asked_for_soon(model):
    batching = Batching(Running(model), PLAIN, slots=1, queue=3)
    batching.hold(2)
    assert batching.room == 1
    with pytest.raises(Full, match="2 pictures wait already"):
        batching.submit([job_of(model, seed)[0] for seed in range(2)])
    with pytest.raises(Full):
        batching.hold(2)
    batching.submit([job_of(model, 0)[0]])
    batching.submit([job_of(model, 1)[0]], held=1)
    assert batching.room == 0 and batching.waiting == 2
    batching.submit([job_of(model, 2)[0]], held=0)  # which goes on with an earlier one
    batching.hold(-1)
    finish(batching)
    assert batching.room == 3 and batching.counts.done == 3


def test_it_says_that_its_device_computes_no_more(model, monkeypatch):
    batching = Batching(Running(model), PLAIN)
    gone = RuntimeError("CUDA error: device-side assert triggered")

    def broken(*args, **more):
        raise gone

    monkeypatch.setattr(model, "hidden", broken)
    for dead in (False, True):
        if dead:
            monkeypatch.setattr("smalti.engine.running.torch.ones", broken)
        job, events = job_of(model, 0)
        batching.submit([job])
        finish(batching)
        assert events[0].error is gone and batching.broken == dead


def test_a_cancelled_picture_leaves_at_the_next_step(model):
    batching = Batching(Running(model), PLAIN, slots=2)
    jobs = [job_of(model, seed) for seed in range(4)]
    batching.submit([job for job, _ in jobs])
    batching.turn()
    batching.cancel(jobs[0][0])
    batching.cancel(jobs[3][0])  # which waits
    batching.turn()
    assert batching.drawing == 2  # the third has its slot
    finish(batching)
    assert [len(events) for _, events in jobs] == [0, 1, 1, 0]
    assert batching.counts.cancelled == 2 and batching.counts.done == 2


def test_pictures_on_the_way_are_told_in_turn_and_the_last_is_whole(model):
    batching = Batching(Running(model), PLAIN)
    job, events = job_of(model, 1, previews=Previews(3))
    batching.submit([job])
    finish(batching)
    *shown, done = events
    assert [event.done for event in shown] == [4, 8, 12] and isinstance(done, Drawn)
    for event in shown:
        assert torch.equal(event.picture[: event.done], done.result[: event.done])
        assert not event.picture[event.done :].any()


def test_pictures_on_the_way_wait_for_finished_ones(model):
    """Where ever more finished pictures are to be decoded, nobody has time for others."""
    batching = Batching(Running(model), PLAIN, slots=4, together=1)
    jobs = [job_of(model, seed, previews=Previews(15)) for seed in range(4)]
    batching.submit([job for job, _ in jobs])
    finish(batching)
    shown = sum(isinstance(event, Shown) for _, events in jobs for event in events)
    assert batching.counts.shown == shown and shown + batching.counts.dropped == 4 * 15
    assert batching.counts.dropped > 0


def test_what_fails_fails_alone(model):
    """A request that cannot be made, one that the model cannot serve, and one decoding."""

    def bad():
        raise ValueError("no such class")

    def undecodable(codes, spec):
        raise RuntimeError("out of memory")

    batching = Batching(Running(model), PLAIN)
    good, events = job_of(model, 0)
    wrong = [[], []]
    two = Request(random_cond(model, 2), Noise.request(0, 2))
    batching.submit([Job(bad, wrong[0].append), good, Job(lambda: two, wrong[1].append)])
    finish(batching)
    assert isinstance(events[0], Drawn)
    assert [type(e[0]) for e in wrong] == [Failed, Failed]
    assert "no such class" in str(wrong[0][0].error) and "one picture" in str(wrong[1][0].error)
    broken = Batching(Running(model), Decoder(undecodable, PLAIN.partly))
    job, events = job_of(model, 0)
    broken.submit([job])
    finish(broken)
    assert isinstance(events[0].error, RuntimeError)


def test_what_cannot_be_decoded_fails_alone(model):
    """Though finished pictures are decoded together."""
    bad = [*stream(model, request_of(model, 1))][-1].codes[0]

    def decode(codes, spec):
        if any(torch.equal(row, bad) for row in codes):
            raise RuntimeError("no picture")
        return list(codes)

    batching = Batching(Running(model), Decoder(decode, PLAIN.partly), slots=3)
    jobs = [job_of(model, seed) for seed in range(3)]
    batching.submit([job for job, _ in jobs])
    finish(batching)
    assert [type(events[-1]) for _, events in jobs] == [Drawn, Failed, Drawn]
    assert (batching.counts.done, batching.counts.failed) == (2, 1)


def test_a_finished_picture_that_nobody_waits_for_is_not_decoded(model):
    decoded = []
    whole = lambda codes, spec: decoded.append(len(codes)) or list(codes)  # noqa: E731
    batching = Batching(Running(model), Decoder(whole, PLAIN.partly), slots=2, together=1)
    jobs = [job_of(model, seed) for seed in range(2)]
    batching.submit([job for job, _ in jobs])
    while not decoded:
        batching.turn()
    batching.cancel(jobs[1][0])  # drawn together with the first, and next to be decoded
    finish(batching)
    assert decoded == [1] and jobs[1][1] == []
    assert (batching.counts.done, batching.counts.cancelled) == (1, 1)


def test_it_stops_though_somebody_no_longer_waits_for_a_call(model):
    batching = Batching(Running(model), PLAIN)
    gone, waits = (batching.call(time.monotonic) for _ in range(2))
    assert gone.cancel()
    batching.stop()
    with pytest.raises(Stopped):
        waits.result(0)


def test_who_waits_too_long_is_told(model):
    batching = Batching(Running(model), PLAIN, slots=1, deadline=-1.0)
    job, events = job_of(model, 0)
    batching.submit([job])
    finish(batching)
    assert isinstance(events[0].error, Late) and batching.waiting == 0


def test_a_thread_draws_what_others_ask_for_and_stops(model):
    batching, done = Batching(Running(model), PLAIN, slots=2), threading.Event()
    results = {}

    def told(seed, event):
        results[seed] = event
        if len(results) == 6:
            done.set()

    batching.start()
    assert batching.call(lambda: threading.current_thread().name).result(10) == "smalti-draws"
    for seed in range(6):
        batching.submit([Job(lambda s=seed: request_of(model, s), lambda e, s=seed: told(s, e))])
    assert done.wait(30)
    for seed, event in results.items():
        *_, last = stream(model, request_of(model, seed))
        assert torch.equal(event.result, last.codes[0])
    batching.stop()
    with pytest.raises(Stopped):
        batching.submit([job_of(model, 0)[0]])
    with pytest.raises(Stopped):
        batching.call(time.monotonic)


def test_what_goes_wrong_in_a_turn_ends_the_pictures_of_that_turn(model):
    """Somebody who is told raises; others are told so, and later ones are drawn."""
    batching, failed, drawn = Batching(Running(model), PLAIN, slots=2), [], threading.Event()

    def broken(event):
        raise OSError("the client's socket")

    batching.start()
    first = Job(lambda: request_of(model, 0), broken)
    batching.submit([first, Job(lambda: request_of(model, 1), failed.append)])
    for _ in range(200):
        if failed:
            break
        time.sleep(0.05)
    assert len(failed) == 1
    batching.submit([Job(lambda: request_of(model, 2), lambda event: drawn.set())])
    assert drawn.wait(20)
    batching.stop()


def test_it_goes_on_though_pictures_cannot_be_let_go_one_by_one(model, monkeypatch):
    """As where memory runs out for the copy of those that stay."""
    batching, failed, drawn = Batching(Running(model), PLAIN, slots=2), [], threading.Event()
    batching.start()
    jobs = [Job(lambda i=i: request_of(model, i), failed.append) for i in range(2)]
    with monkeypatch.context() as patched:
        patched.setattr(Running, "_take", broken := lambda *_: 1 / 0)
        assert broken
        batching.submit(jobs)
        for _ in range(200):
            if len(failed) == 2:
                break
            time.sleep(0.05)
    assert [type(event.error) for event in failed] == [ZeroDivisionError] * 2
    batching.submit([Job(lambda: request_of(model, 2), lambda event: drawn.set())])
    assert drawn.wait(20)
    batching.stop()


def test_what_is_not_done_when_it_stops_is_told(model):
    batching = Batching(Running(model), PLAIN)
    job, events = job_of(model, 0)
    batching.submit([job])
    batching.stop()
    assert isinstance(events[0].error, Stopped)


def test_the_first_of_a_cohort_waits_a_moment_for_others():
    model = build(*models()["var"])
    batching = Batching(Running(model), PLAIN, slots=4, window=1000.0)
    jobs = [job_of(model, seed) for seed in range(4)]
    batching.submit([jobs[0][0]])
    assert not batching.turn() and batching.drawing == 0
    batching.submit([job for job, _ in jobs[1:]])
    finish(batching)
    assert batching.counts.passes == len(model.blocks()) and batching.counts.done == 4
