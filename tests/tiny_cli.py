"""`cli.py` with one more model in its catalogue, small enough to be fetched a hundred times."""

import sys

import cli
from providers import download
from providers.weights import CATALOGUE, EmbeddedWeights
from tests.providers.hub import SOURCE


def main(size: str, digest: str, *arguments: str) -> int:
    download.PAUSE = 0.01
    CATALOGUE["tiny"] = EmbeddedWeights(
        "tiny", "tiny.gguf", int(size), digest, 128, languages=("en",), sources=(SOURCE,)
    )
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
