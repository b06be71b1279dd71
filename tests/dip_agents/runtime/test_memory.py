import os
import subprocess
import sys

import pytest

from dip_agents.runtime import memory

HOLES = """
import torch
from dip_agents.runtime.memory import trim_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

kept, freed = [], []
for _ in range(4000):  # 64 KB each: too small for a mapping of its own
    freed.append(torch.zeros(16384))
    kept.append(torch.zeros(16))
before = resident()
freed.clear()
trim_memory()
print(before - resident())
"""


@pytest.mark.skipif(memory._malloc_trim() is None, reason="no glibc")
def test_memory_between_tensors_that_live_on_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 200  # of 250 MB


def test_the_environment_decides_how_many_kernels_are_kept(monkeypatch):
    for name, count in memory.KEPT_KERNELS.items():
        monkeypatch.delenv(name, raising=False)
        memory.limit_kernel_cache()
        assert os.environ[name] == str(count)
        monkeypatch.setenv(name, "7")
        memory.limit_kernel_cache()
        assert os.environ[name] == "7"
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    monkeypatch.setenv("DNNL_PRIMITIVE_CACHE_CAPACITY", "9")
    memory.limit_kernel_cache()
    assert "ONEDNN_PRIMITIVE_CACHE_CAPACITY" not in os.environ


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    memory.trim_memory()
