from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from dip_agents import adapters
from dip_agents.runtime.optional import require_extra
from dip_env.errors import ConfigError

CORE = {
    *("dip_env", "dip_wrappers", "dip_agents", "numpy", "scipy", "PIL", "pycocotools"),
    *("gymnasium", "cloudpickle", "farama_notifications", "typing_extensions"),
    *("lazy_loader", "packaging"),
}
"""What an install without extras can import, beside the standard library."""
ON_A_CORE_INSTALL = """
import importlib, json, sys
modules, missing = map(json.loads, sys.argv[1:])
sys.modules.update(dict.fromkeys(missing))
found = {}
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        found[module] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def errors_on_a_core_install(*modules):
    """Return how importing modules fails in a process that has none of the extras."""
    missing = sorted(set(packages_distributions()) - CORE)
    words = [json.dumps(modules), json.dumps(missing)]
    command = [sys.executable, "-c", ON_A_CORE_INSTALL, *words]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_every_adapter_loads_on_a_core_install_or_says_how_to_get_its_trainer():
    (folder,) = map(Path, adapters.__path__)
    names = [
        ".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")
    ]
    found = errors_on_a_core_install(*(f"dip_agents.adapters.{name}" for name in names))
    trainers = {name.partition(".")[0] for name in names if "." in name}
    assert trainers == {"openenv", "ray", "trl", "verifiers", "verl"}
    assert {module.split(".")[2] for module in found} == trainers
    for module, error in found.items():
        extra = module.split(".")[2]
        install = rf'which is not installed: pip install "dip-env\[{extra}\]"'
        assert re.fullmatch(f"ConfigError: expected the package .*, {install}", error), module


def test_what_a_core_install_lacks_is_missing_indeed():
    (error,) = errors_on_a_core_install("dip_agents.tokens.chat").values()
    assert error == "ModuleNotFoundError: import of torch halted; None in sys.modules"


def test_a_missing_library_comes_with_its_install_line():
    require_extra("dip_env", "trl")
    with pytest.raises(ConfigError, match=r'package nowhere_at_all.*pip install "dip-env\[trl\]"'):
        require_extra("nowhere_at_all", "trl")


def test_an_experiment_asks_for_its_plots_before_it_measures(monkeypatch, run):
    monkeypatch.setattr("dip_agents.runtime.optional.find_spec", lambda name: None)
    code, _, errors = run("experiment", "controls")
    assert code == 2
    assert (
        'expected the package matplotlib, which is not installed: pip install "dip-env[play]"'
        in (" ".join(errors.split()))
    )
