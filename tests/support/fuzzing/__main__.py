"""The command behind `scripts/fuzz`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from fuzzing.campaign import KINDS, bombard, fuzzed
from fuzzing.client import exchange
from fuzzing.corpus import CORPUS
from fuzzing.judge import judge
from fuzzing.mutate import input_of


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Send damaged HTTP to a real server of each kind and judge every reply. Exit code 1 on findings.",
    )
    parser.add_argument("--inputs", type=int, default=50_000, metavar="N", help="inputs for each kind (50000)")
    parser.add_argument("--seed", type=int, default=0, help="other inputs; the same seed gives the same ones (0)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first input (0)")
    parser.add_argument("--worker", choices=[*KINDS, "all"], default="all", help="kind of server (all)")
    parser.add_argument("--connections", type=int, default=256, metavar="N", help="connections at a time (256)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the inputs of findings to files there")
    parser.add_argument("--show", type=int, metavar="N", help="print input N and what the servers say to it, no more")
    parser.add_argument("--list", action="store_true", help="print the names of the corpus, no more")
    parser.add_argument("--codecs", type=float, metavar="SECONDS", help="fuzz the codecs with atheris instead")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{case.expect:9} {case.name}" for case in CORPUS))
        return 0
    if arguments.codecs is not None:
        from fuzzing import codecs

        return codecs.main(arguments.codecs, arguments.seed)
    kinds = list(KINDS) if arguments.worker == "all" else [arguments.worker]
    if arguments.show is not None:
        show(kinds, arguments.seed, arguments.show)
        return 0
    found = False
    for kind in kinds:
        numbers = range(arguments.first, arguments.first + arguments.inputs)
        with fuzzed(kind) as server:
            tally = bombard(server, numbers, seed=arguments.seed, connections=arguments.connections)
        print(f"{kind}: {tally.summary()}", flush=True)
        for number, data, finding in tally.findings:
            print(f"  input {number}: {finding}\n    {data[:300]!r}{'...' if len(data) > 300 else ''}")
        if arguments.save and tally.findings:
            save(arguments.save, kind, ((number, data) for number, data, _ in tally.findings))
        found = found or bool(tally.findings)
    return 1 if found else 0


def show(kinds: Iterable[str], seed: int, number: int) -> None:
    import asyncio

    packets = input_of(seed, number)
    print("\n".join(repr(packet) for packet in packets))
    for kind in kinds:
        with fuzzed(kind) as server:
            outcome = asyncio.run(exchange(server.port, packets))
        print(f"{kind}: {outcome.got!r}, ended={outcome.ended} reset={outcome.reset}")
        print(f"  {judge(b''.join(packets), outcome).findings}")


def save(directory: Path, kind: str, inputs: Iterable[tuple[int, bytes]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number, data in inputs:
        (directory / f"{kind.replace(' ', '-')}-{number}").write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
