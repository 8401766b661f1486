"""Calls beside other work: they wait for their start, and what they do comes back."""

import threading

import pytest

from outpace.background import Background


def test_a_call_waits_for_its_start():
    begun = threading.Event()
    call = Background(lambda: (begun.set(), threading.current_thread().name))
    assert not begun.wait(0.05)
    call.start()
    assert begun.wait(5)
    assert call.result()[1] != threading.current_thread().name


def test_the_result_starts_the_call_and_comes_once():
    calls = []
    call = Background(lambda: calls.append(1) or len(calls))
    assert (call.result(), call.result()) == (1, 1)
    call.start()
    assert calls == [1]


@pytest.mark.parametrize("error", [ValueError("damaged"), KeyboardInterrupt()])
def test_an_error_comes_back(error):
    def fails():
        raise error

    with pytest.raises(type(error)):
        Background(fails).result()
