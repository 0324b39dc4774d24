"""Memory that was freed goes back to the system."""

import ctypes
import platform

import psutil
import pytest

from CTGroundedVLMLib import memory

BLOCK, BLOCKS = 64 * 1024, 4000  # below the size from which the allocator maps a block of its own


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory in this way")
def test_freed_blocks_between_ones_in_use_go_back_to_the_system():
    process = psutil.Process()
    large, small = [], []
    for _ in range(BLOCKS):
        large.append(ctypes.create_string_buffer(BLOCK))
        small.append(ctypes.create_string_buffer(600))
    large.clear()
    kept = process.memory_info().rss
    memory.release_freed_memory()
    assert kept - process.memory_info().rss > 0.7 * BLOCK * BLOCKS
    assert len(small) == BLOCKS


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_where_there_is_no_such_allocator_it_is_asked_for_and_no_error(monkeypatch, error):
    asked = []

    def library(name):
        asked.append(name)
        raise error

    monkeypatch.setattr(memory.ctypes, "CDLL", library)
    memory.release_freed_memory()
    assert asked == [None]
