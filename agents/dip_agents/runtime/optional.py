"""Optional dependencies."""

from __future__ import annotations

from importlib.util import find_spec

from dip_env.errors import ConfigError


def require_extra(package: str, extra: str) -> None:
    """Check that an optional package is installed; the error tells how to install it.

    Args:
        package: name to import.
        extra: of this distribution that brings it.

    Raises:
        ConfigError: when the package is not installed.
    """
    if find_spec(package) is None:
        raise ConfigError(
            f"expected the package {package}, which is not installed: "
            f'pip install "dip-env[{extra}]"'
        )
