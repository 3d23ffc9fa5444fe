"""Signals set a flag inside the block and mean what they meant before outside it."""

import os
import signal
import threading

import pytest

from dbrun.run.signals import HEARD, listening


@pytest.mark.parametrize("number", HEARD)
def test_a_signal_is_heard_and_the_handlers_come_back(number):
    before = [signal.getsignal(n) for n in HEARD]
    with listening() as stopping:
        assert stopping() == 0
        os.kill(os.getpid(), number)
        assert stopping() == number
    assert [signal.getsignal(n) for n in HEARD] == before


def test_the_second_signal_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), listening() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping() == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_can_run_too():
    found = []

    def work():
        with listening() as stopping:
            found.append(stopping())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]
