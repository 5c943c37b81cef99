"""Sentiment of Chinese reviews; text is cut into words by the vectors' own vocabulary.

Without a file the vectors are distilled from an English encoder, which knows Chinese characters only faintly. For
results worth having give Chinese word vectors, or train some on texts of yours.

python recipes/chinese_sentiment.py                              the hotel reviews of data/
python recipes/chinese_sentiment.py reviews.csv --base zh_vectors.txt.gz
python recipes/chinese_sentiment.py reviews.csv --route full --base google-bert/bert-base-chinese
python recipes/word2vec_from_scratch.py reviews.csv --texts more_reviews.txt
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    recipe(DATA / "hotels_zh")
