"""``python -m dip_agents.adapters.openenv``: start the server."""

from dip_agents.adapters.openenv.server import main

main()
