"""A coverage-guided search for a Cookie header that ours reads otherwise than the written rules.

    python -m tests.campaigns.fuzzing --seed 2026 --count 1000000
    python -m tests.campaigns.fuzzing --seed 2026 --count 1000000 --control case

Needs atheris (the extra `campaign`; Linux on x86-64). Its bytes become headers as `tests.security.reference`
says; both ways in are compared with the reference there. With `--control` the codec is wrong on purpose: exit
status 0 if it is found out.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from session_middleware import cookies
from session_middleware.cookies import CookieCodec
from tests.security.reference import CONTROLS, PIECES, codec_of, disagreement, reference_of

__all__ = ["main"]

LONGEST = 96  # bytes; each is a piece, a command, or itself
FOUND = 77  # how libFuzzer ends where its target raised
SEEDS = [bytes([PIECES.index(b"; session="), value, PIECES.index(b"; session="), 0]) for value in range(16)]


class Disagreement(Exception):
    """What is looked for."""


def fuzz(kind: type[CookieCodec], arguments: list[str]) -> None:
    """Run until libFuzzer ends the process."""
    import atheris

    methods = {kind.read, kind.read_text, kind._judge, CookieCodec._judge, CookieCodec.verify}
    for function in (*methods, cookies._values_after, cookies._values_of_pairs, cookies._newest_per_id):
        atheris.instrument_func(function)
    codec, reference = codec_of(kind), reference_of()

    def one(data: bytes) -> None:
        if told := disagreement(codec, reference, data):
            raise Disagreement(told)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def searched(control: str | None, seed: int, count: int) -> tuple[int, str]:
    """The exit status of such a process, and what it said."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(SEEDS):
            (corpus / str(number)).write_bytes(data)
        options = [f"-seed={seed}", f"-runs={count}", f"-max_len={LONGEST}", f"-artifact_prefix={scratch}/"]
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, "--fuzz", control or "", *options, str(corpus)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    """Exit status 0 if the two agreed in all, or if the control was found out."""
    if sys.argv[1:2] == ["--fuzz"]:
        fuzz(CONTROLS.get(sys.argv[2], CookieCodec), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--control", choices=sorted(CONTROLS))
    given = parser.parse_args()
    began = time.perf_counter()
    status, said = searched(given.control, given.seed, given.count)
    if status not in {0, FOUND}:
        sys.stdout.write(said)
        return 2
    told = re.search(r"Disagreement: (.*)", said)
    figures = re.findall(r"#(\d+)\s.*cov: (\d+)", said)
    runs, reached = figures[-1] if figures else (len(SEEDS), "no new")  # found out by what it began with
    outcome = f"found: {told[1][:400]}" if told else "all read the same"
    sys.stdout.write(
        f"{given.control or 'ours'}: {int(runs):,} inputs from seed {given.seed}, {reached} places reached, "
        f"{time.perf_counter() - began:.0f} s; {outcome}\n"
    )
    return int((status == FOUND) is not bool(given.control))


if __name__ == "__main__":
    sys.exit(main())
