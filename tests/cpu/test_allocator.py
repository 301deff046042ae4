from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from rechub_ray.cpu.allocator import keep_freed_memory
torch.set_num_threads(1)
def work():
    blocks = [torch.ones(2_000_000) for _ in range(6)]  # 8 MB each: more than glibc keeps of its own accord
    return sum(len(block) for block in blocks)
def faults():
    for _ in range(3): work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10): work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
assert keep_freed_memory()
print(plain, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_not_faulted_in_again() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, check=True, timeout=100)
    plain, kept = map(int, done.stdout.split())
    if plain < 1000:
        pytest.skip(f"the system gives pages back without faults here ({plain}): nothing to compare")
    assert kept < plain / 2
