"""Signals set a flag inside the block and mean what they meant before outside it."""

import os
import signal
import threading

import pytest

from dbrun.run.signals import HANDLED_SIGNALS, stop_signals


@pytest.mark.parametrize("number", HANDLED_SIGNALS)
def test_a_signal_is_heard_and_the_handlers_come_back(number):
    before = [signal.getsignal(n) for n in HANDLED_SIGNALS]
    with stop_signals() as stop_signal:
        assert stop_signal() == 0
        os.kill(os.getpid(), number)
        assert stop_signal() == number
    assert [signal.getsignal(n) for n in HANDLED_SIGNALS] == before


def test_the_second_signal_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_signals() as stop_signal:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signal() == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_can_run_too():
    found = []

    def work():
        with stop_signals() as stop_signal:
            found.append(stop_signal())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]
