from __future__ import annotations

import numpy as np

from edge.core.frames import FrameMemory

SHAPE = 72, 128, 3


def test_memory_of_a_dropped_image_is_used_again() -> None:
    memory = FrameMemory()
    image = memory.new_image(SHAPE)
    address = image.ctypes.data
    del image
    assert memory.new_image(SHAPE).ctypes.data == address


def test_memory_is_not_used_again_while_a_view_of_its_image_lives() -> None:
    memory = FrameMemory()
    image = memory.new_image(SHAPE)
    image[:] = 7
    view = image[::2, ::2, ::-1].transpose(2, 0, 1)[1:]
    del image
    for _ in range(3):
        memory.new_image(SHAPE)[:] = 9
    assert (view == 7).all()


def test_images_of_another_size_get_memory_of_their_own() -> None:
    memory = FrameMemory()
    memory.new_image(SHAPE)
    assert memory.new_image((144, 256, 3)).shape == (144, 256, 3)
    assert memory.new_image((10, 8)).shape == (10, 8)


def test_few_of_many_images_dropped_at_once_are_kept() -> None:
    memory = FrameMemory()
    images = [memory.new_image(SHAPE) for _ in range(3 * FrameMemory.MAX_UNUSED)]
    assert len({image.ctypes.data for image in images}) == len(images)
    images.clear()
    assert len(memory._unused) == FrameMemory.MAX_UNUSED
    assert isinstance(memory.new_image(SHAPE), np.ndarray)
