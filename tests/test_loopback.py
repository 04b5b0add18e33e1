"""A local Ray is reachable from this machine only."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
from finetricks_tuning.loopback import keep_to_this_machine
keep_to_this_machine()
import json, psutil, ray
ray.init(address="local", include_dashboard=False, num_cpus=1, log_to_driver=False, logging_level=40)
ray.get(ray.remote(lambda: 1).remote())
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
print(json.dumps([c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]))
ray.shutdown()
"""


def test_every_socket_of_a_local_ray_is_on_the_loopback_address() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=400)
    addresses = json.loads(done.stdout.splitlines()[-1])
    assert len(addresses) >= 4
    assert set(addresses) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
