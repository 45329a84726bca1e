"""Static analysis as `make lint` runs it: that its settings leave it eyes for what matters."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

DANGEROUS = {
    "B301": "import pickle\npickle.loads(b'')\n",
    "B302": "import marshal\nmarshal.loads(b'')\n",
    "B307": "eval('1')\n",
    "B102": "exec('1')\n",
    "B306": "import tempfile\ntempfile.mktemp()\n",
    "B506": "import yaml\nyaml.load('')\n",
    "B602": "import subprocess\nsubprocess.run('ls', shell=True)\n",
    "B501": "import requests\nrequests.get('https://example.com', verify=False)\n",
}


def test_bandit_finds_what_is_dangerous_under_the_settings_of_the_project(tmp_path: Path) -> None:
    path = tmp_path / "careless.py"
    path.write_text("".join(DANGEROUS.values()))
    bandit = [sys.executable, "-m", "bandit", "--quiet", "--configfile", str(ROOT / "pyproject.toml")]
    found = subprocess.run([*bandit, str(path)], capture_output=True, text=True, check=False).stdout
    assert [rule for rule in DANGEROUS if rule not in found] == []
