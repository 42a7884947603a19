"""`DeviceRecurrentState` feeds the same values as `RecurrentState`, for all lags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.inference.interface.recurrent_state import RecurrentState
from edge.inference.tensorrt.device_state import DeviceRecurrentState
from edge.release.release import StateSpec
from tests.support.simulated_gpu import SimulatedCuda

LAGS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 0.1, 0.2, 0.35, 0.8])), min_size=0, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(lags=LAGS, rates=st.lists(st.sampled_from([1.0, 10.0, 30.0]), min_size=1, max_size=3))
def test_device_state_feeds_the_same_values_as_the_host_state(
    lags: list[tuple[str, float]], rates: list[float]
) -> None:
    states = [StateSpec(f"in{i}", output, (1, 2), -1.0 - i, lag) for i, (output, lag) in enumerate(lags)]
    cuda = SimulatedCuda("at once")
    dtypes = {state.input: np.dtype(np.float32) for state in states}
    device_state = DeviceRecurrentState(states, dtypes, cuda, cuda.create_stream(), 2)
    starts = {state.input: np.full((1, 2), state.start, np.float32) for state in states}
    host_state = RecurrentState(states, starts)

    def values(address: int) -> np.ndarray:
        return cuda.bytes_at(address).view(np.float32)

    for fps in rates:
        device_state.set_frame_rate(fps)
        host_state.reset(fps)
        assert device_state.period % 2 == 0
        for frame in range(2 * device_state.period + 5):
            addresses = device_state.addresses(frame)
            for name, expected in host_state.feed().items():
                np.testing.assert_array_equal(values(addresses[name]), expected.reshape(-1))
            read_addresses = {addresses[state.input] for state in states}
            outputs = {name: np.full((1, 2), frame + ord(name), np.float32) for name in host_state.outputs}
            for name, value in outputs.items():
                assert addresses[name] not in read_addresses
                values(addresses[name])[...] = value.reshape(-1)
            host_state.update(outputs)
            if frame >= device_state.warmup_frames:
                assert addresses == device_state.addresses(frame + device_state.period)


def test_device_state_allocates_nothing_for_a_frame_rate_that_was_used_before() -> None:
    cuda = SimulatedCuda()
    state = StateSpec("in", "out", (1, 8), 0.0, 0.5)
    device_state = DeviceRecurrentState([state], {"in": np.dtype(np.float16)}, cuda, cuda.create_stream(), 2)
    device_state.set_frame_rate(30)
    available = cuda.available_bytes()
    for fps in (10, 30, 1, 30):
        device_state.set_frame_rate(fps)
    assert cuda.available_bytes() == available
    assert device_state.period == 16
    assert available == pytest.approx(2**32 - 16 * 16 - 2 * 16)
