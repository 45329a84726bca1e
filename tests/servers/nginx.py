"""A real nginx with a cache, in front of an app of the tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tests.servers.processes import ended, free_port, program, until

__all__ = ["caching_proxy"]

# It keeps whatever the app does not forbid to keep, and says whether an answer came from its cache.
_SETTINGS = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/temp;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  proxy_cache_path {folder}/cache keys_zone=shared:1m;
  server {{
    listen 127.0.0.1:{own};
    location / {{
      proxy_pass http://127.0.0.1:{app};
      proxy_set_header Host $http_host;
      proxy_cache shared;
      proxy_cache_valid 200 10m;
      {more}
      add_header X-Cache $upstream_cache_status always;
    }}
  }}
}}
"""


@contextmanager
def caching_proxy(app: int, more: str = "") -> Iterator[str]:
    """The URL of one before the app on this port; *more*: settings of its own. Raises `ServerMissing`."""
    with TemporaryDirectory(prefix="nginx-") as folder:
        own, settings = free_port(), Path(folder) / "nginx.conf"
        settings.write_text(_SETTINGS.format(folder=folder, own=own, app=app, more=more))
        Path(folder).chmod(0o755)
        command = [program("nginx", "/usr/sbin"), "-c", str(settings), "-p", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers() -> bool:
            assert process.poll() is None, "nginx has ended"
            try:
                return bool(httpx.get(f"http://127.0.0.1:{own}/up"))
            except httpx.TransportError:
                return False

        try:
            until(answers, "nginx answers")
            yield f"http://127.0.0.1:{own}"
        finally:
            ended(process)
