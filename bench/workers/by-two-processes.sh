#!/usr/bin/env bash
# How the bash original resolves its configuration, emulated: one process prints the configuration as JSON (here `cat`,
# which is kinder than the framework's own program), and one python3 reads it from an argument and prints what it needs.
set -euo pipefail
config=$1 python=$2

json=$(cat "$config")
[ -n "$json" ] || exit 1
resolved=$("$python" - "$json" <<'PYTHON'
import json
import sys

config = json.loads(sys.argv[1])
accessories = config.get("propaneAccessories", {})
cluster = config.get("cluster", {})


def number(section, key, default, minimum):
    try:
        value = int(section.get(key, default))
    except (TypeError, ValueError):
        return default
    return value if value >= minimum else default


print(config.get("host", "127.0.0.1"))
print(number(config, "port", 3000, 1))
print(number(config, "listenBacklog", 128, 1))
print(number(config, "connectionTimeoutSeconds", 30, 1))
print(number(accessories, "workerCount", 4, 1))
print(number(accessories, "gracefulShutdownSeconds", 10, 1))
print(number(accessories, "respawnDelayMs", 250, 0))
print(number(accessories, "reloadOverlapSeconds", 1, 0))
print(number(accessories, "jobWorkerCount", 0, 0))
print(accessories.get("jobWorkerCommand", ""))
print(cluster.get("name", "default"))
print(number(cluster, "expectedNodes", 1, 1))
PYTHON
)
printf '%s\n' "$resolved"
