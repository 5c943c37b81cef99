"""Topics of headlines: one of several labels for each text.

python recipes/topics.py                                       the headlines of data/
python recipes/topics.py --route full                          the same, fine-tuning an encoder
accelerate launch --num_processes 4 recipes/topics.py          the same on four GPUs
python recipes/topics.py news.parquet --set text_column=body --set max_train_rows=20000
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    recipe(DATA / "headlines", route="word2vec")
