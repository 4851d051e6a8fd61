"""The command behind `scripts/fuzz`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from serving import serve

from fuzzing.campaign import KINDS, bombard, fuzzed, troubles
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
    parser.add_argument("--through", choices=["haproxy", "nginx"], help="send the inputs through a proxy, and count")
    parser.add_argument("--openapi", type=int, metavar="N", help="N requests of each kind by schemathesis instead")
    parser.add_argument("--codecs", type=float, metavar="SECONDS", help="fuzz the codecs with atheris instead")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{case.expect:9} {case.name}" for case in CORPUS))
        return 0
    if arguments.codecs is not None:
        from fuzzing import codecs

        return codecs.main(arguments.codecs, arguments.seed)
    if arguments.openapi is not None:
        return openapi(arguments.openapi, arguments.seed)
    kinds = list(KINDS) if arguments.worker == "all" else [arguments.worker]
    if arguments.show is not None:
        show(kinds, arguments.seed, arguments.show)
        return 0
    numbers = range(arguments.first, arguments.first + arguments.inputs)
    if arguments.through is not None:
        return through(arguments.through, kinds, numbers, arguments.seed)
    found = False
    for kind in kinds:
        with fuzzed(kind) as server:
            tally = bombard(server, numbers, seed=arguments.seed, connections=arguments.connections)
        print(f"{kind}: {tally.report()}", flush=True)
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


def openapi(examples: int, seed: int) -> int:
    from fuzzing import described

    found = False
    for platform in described.SERVED:
        with serve(*described.arguments(platform), platform=platform) as server:
            statuses, findings = described.hit(server.url, examples, seed)
            findings += troubles(server)
        counts = " ".join(f"{status}:{count}" for status, count in sorted(statuses.items()))
        print(f"{platform}: {statuses.total()} requests, replies {counts}; findings {len(findings)}", flush=True)
        print("".join(f"  {finding}\n" for finding in findings[:20]), end="")
        found = found or bool(findings)
    return 1 if found else 0


def through(proxy: str, kinds: Iterable[str], numbers: Sequence[int], seed: int) -> int:
    from fuzzing.proxied import compare, missing

    if missing(proxy):
        print(f"skipped: {proxy} is not installed")
        return 0
    found = False
    for kind in kinds:
        with tempfile.TemporaryDirectory() as directory:
            Path(directory).chmod(0o777)
            difference = compare(proxy, kind, numbers, Path(directory), seed=seed)
        print(f"{kind} behind {proxy}: sent {difference.sent}, seen {difference.seen}; findings {difference.findings}")
        found = found or difference.seen > difference.sent or bool(difference.findings)
    return 1 if found else 0


def save(directory: Path, kind: str, inputs: Iterable[tuple[int, bytes]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number, data in inputs:
        (directory / f"{kind.replace(' ', '-')}-{number}").write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
