"""Seconds of a request to recipes/serve.py: 50 clients at once, beside one that asks for one text after the other.

python tests/benchmarks/serving.py [--model FOLDER] [--requests N]
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from predict_file import made_rows, made_words, save_model

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.serving import serving, timed

CLIENTS = (1, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a classifier; by default a linear one on word vectors")
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    words = made_words()
    texts = made_rows(words, options.requests)["text"].to_pylist()
    with TemporaryDirectory() as place:
        folder = Path(place)
        if options.model is None:
            save_model(words, folder / "model", folder)
        print(f"{'clients':>7} {'requests':>8} {'median ms':>10} {'99% ms':>8} {'requests/s':>10}")
        with serving(options.model or folder / "model") as server:
            timed(server, texts[:50], 10)  # the first ones wait for what is done once
            for clients in CLIENTS:
                found = timed(server, texts if clients > 1 else texts[: len(texts) // 10], clients)
                assert {answer.status_code for answer, _ in found} == {200}
                seconds = np.array([each for _, each in found])
                median, most = np.percentile(1000 * seconds, (50, 99))
                speed = clients / seconds.mean()
                print(f"{clients:>7} {len(found):>8,} {median:>10.1f} {most:>8.1f} {speed:>10,.0f}")


if __name__ == "__main__":
    main()
