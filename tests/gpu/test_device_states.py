"""States on the GPU are fed as `RecurrentState` feeds them, whatever their lags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.inference.interface.recurrent_state import RecurrentState
from edge.inference.tensorrt.device_state import DeviceRecurrentState
from edge.release.manifest import StateSpec
from tests.gpu.host import Host

LAGS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 0.1, 0.2, 0.35, 0.8])), min_size=0, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(asked=LAGS, rates=st.lists(st.sampled_from([1.0, 10.0, 30.0]), min_size=1, max_size=3))
def test_they_are_fed_what_carried_feeds(asked: list[tuple[str, float]], rates: list[float]) -> None:
    states = [StateSpec(f"in{i}", output, (1, 2), -1.0 - i, lag) for i, (output, lag) in enumerate(asked)]
    host = Host("at once")
    kinds = {state.input: np.dtype(np.float32) for state in states}
    there = DeviceRecurrentState(states, kinds, host, host.stream(), 2)
    starts = {state.input: np.full((1, 2), state.start, np.float32) for state in states}
    carried = RecurrentState(states, starts)

    def values(address: int) -> np.ndarray:
        return host.bytes(address).view(np.float32)

    for fps in rates:
        there.lay_out(fps)
        carried.reset(fps)
        assert there.length % 2 == 0
        for frame in range(2 * there.length + 5):
            places = there.addresses(frame)
            for name, expected in carried.feed().items():
                np.testing.assert_array_equal(values(places[name]), expected.reshape(-1))
            read = {places[state.input] for state in states}
            given_ = {name: np.full((1, 2), frame + ord(name), np.float32) for name in carried.outputs}
            for name, value in given_.items():
                assert places[name] not in read
                values(places[name])[...] = value.reshape(-1)
            carried.update(given_)
            if frame >= there.settled:
                assert places == there.addresses(frame + there.length)


def test_a_rate_that_was_seen_before_takes_no_memory() -> None:
    host = Host()
    state = StateSpec("in", "out", (1, 8), 0.0, 0.5)
    there = DeviceRecurrentState([state], {"in": np.dtype(np.float16)}, host, host.stream(), 2)
    there.lay_out(30)
    free = host.free_bytes()
    for fps in (10, 30, 1, 30):
        there.lay_out(fps)
    assert host.free_bytes() == free
    assert there.length == 16
    assert free == pytest.approx(2**32 - 16 * 16 - 2 * 16)
