"""``python -m dip_agents.cli``, for launchers, which start modules."""

from dip_agents.cli.main import main

main()
