from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rechub_ray.cpu.allocator import ask_for_huge_pages

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SCRIPT = """
import resource, sys, torch
from rechub_ray.cpu.allocator import keep_freed_memory
torch.set_num_threads(1)
assert sys.argv[1] == "plain" or keep_freed_memory()
def work():
    blocks = [torch.ones(2_000_000) for _ in range(6)]  # 8 MB each: more than glibc keeps of its own accord
    return sum(len(block) for block in blocks)
for _ in range(3): work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_not_faulted_in_again() -> None:
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", SCRIPT, how], stdout=subprocess.PIPE, check=True, timeout=100).stdout)
        for how in ("plain", "kept")
    )
    if plain < 1000:
        pytest.skip(f"the system gives pages back without faults here ({plain}): nothing to compare")
    assert kept < plain / 2


def huge_bytes() -> int:
    found = re.search(r"AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(found[1]) * 1024 if found else 0


@pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text(), reason="this kernel has no transparent huge pages"
)
def test_a_large_table_lies_in_huge_pages() -> None:
    table = torch.empty(16 * 2**20)
    before = huge_bytes()
    assert ask_for_huge_pages(table)
    table.fill_(1)
    assert huge_bytes() - before > 32 * 2**20  # of 64 MiB


def test_small_tensors_and_other_devices_are_left_alone() -> None:
    assert not ask_for_huge_pages(torch.empty(100))
    assert not ask_for_huge_pages(torch.empty(16 * 2**20, device="meta"))
