"""How stages become a job: config, plan, sources, graph, commit, command line. Imports `transforms`, `training`, `schemas`."""
