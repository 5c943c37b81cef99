"""Sentiment of Chinese reviews; words are cut by the vectors' own vocabulary.

Without a file the vectors are distilled from an English encoder, which knows Chinese characters only faintly:
give Chinese word vectors as the base for results worth having.

    python recipes/chinese_sentiment.py                              the hotel reviews of data/
    python recipes/chinese_sentiment.py reviews.csv --base zh_vectors.txt.gz
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    recipe(DATA / "hotels_zh")
