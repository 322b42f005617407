"""Tries and pauses, on a clock of the test's own."""

import pytest

from rfd_tf.serving.transport import Retries, ServingError, TransientServingError


class Clock:
    """Time passes only in `sleep` and in what the test adds."""

    def __init__(self):
        self.now, self.pauses = 100.0, []

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def __call__(self):
        return self.now


class Failing:
    """Fails `times`, then says with how many seconds it was asked each time."""

    def __init__(self, times, clock, lasts=0.0):
        self.times, self.clock, self.lasts, self.given = times, clock, lasts, []

    def __call__(self, seconds):
        self.given.append(seconds)
        self.clock.now += min(self.lasts, seconds)
        if len(self.given) <= self.times:
            raise TransientServingError("it is away")
        return "answer"


def retries(clock, *args, seed=0):
    return Retries(*args, seed=seed, sleep=clock.sleep, clock=clock)


def test_pauses_grow_up_to_the_bound_with_chance_in_them():
    clock = Clock()
    action = Failing(6, clock)
    assert retries(clock, 6, 1.0, 8.0).run(action, 30, None, "here") == "answer"
    assert action.given == [30] * 7
    for pause, longest in zip(clock.pauses, [1, 2, 4, 8, 8, 8], strict=True):
        assert longest / 2 <= pause <= longest
    again, other = Clock(), Clock()
    retries(again, 6, 1.0, 8.0).run(Failing(6, again), 30, None, "here")
    retries(other, 6, 1.0, 8.0, seed=1).run(Failing(6, other), 30, None, "here")
    assert again.pauses == clock.pauses != other.pauses


def test_gives_up_with_the_number_of_tries():
    for count, words in ((0, "1 try"), (3, "4 tries")):
        clock = Clock()
        with pytest.raises(ServingError, match=rf"it is away \(after {words}\)") as raised:
            retries(clock, count).run(Failing(9, clock), 30, None, "here")
        assert not isinstance(raised.value, TransientServingError)
        assert len(clock.pauses) == count


def test_deadline_bounds_tries_and_pauses():
    clock = Clock()
    action = Failing(9, clock, lasts=4.0)
    with pytest.raises(ServingError, match=r"after 3 tries; no time is left"):
        retries(clock, 9, 1.0).run(action, 5, clock.now + 13, "here")
    assert action.given[0] == 5
    assert action.given[-1] < 5
    assert clock.now <= 113
    with pytest.raises(ServingError, match=r"here: the total time \(`deadline`\) is over"):
        retries(clock).run(action, 5, clock.now, "here")


def test_other_errors_pass_at_once():
    clock = Clock()

    def refuse(seconds):
        raise ServingError("no")

    with pytest.raises(ServingError, match=r"^no$"):
        retries(clock).run(refuse, 5, None, "here")
    assert not clock.pauses


@pytest.mark.parametrize("arguments", [(-1,), (1, -0.1), (1, 1, -1), (1, float("nan"))])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="must not be negative"):
        Retries(*arguments)
