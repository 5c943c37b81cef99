"""Labels for the rows of parquet files by Ray Data: actors that hold the classifier, on one machine or a cluster.

What is written has all columns, and label and score (--outputs: labels, scores, score_LABEL). On one machine Ray is
started; RAY_ADDRESS names a cluster, whose machines all see the folders. pip install 'nlptransfer[ray]'

python recipes/predict_with_ray.py runs/reviews rows/ labeled/
python recipes/predict_with_ray.py runs/reviews rows/ labeled/ --text-column title,body --actors 8 --gpus 1
"""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nlptransfer import BatchPredictor
from nlptransfer.cli import run_verb


def main(
    model: Annotated[str, Argument(help="folder of a classifier")],
    rows: Annotated[Path, Argument(help="parquet file, or folder of them")],
    output: Annotated[Path, Argument(help="folder that parquet files are written to")],
    text_column: Annotated[str, Option(help="column of the texts, or several with commas")] = "text",
    outputs: Annotated[str, Option(help="columns that are added")] = "label,score",
    actors: Annotated[int, Option(help="processes that hold the classifier")] = 2,
    gpus: Annotated[float, Option(help="GPUs of each")] = 0,
    blocks: Annotated[int | None, Option(help="parts that the rows are dealt out in; by default by their size")] = None,
) -> None:
    predictor = BatchPredictor(model, text_column.split(","), outputs.split(","))
    is_alone = "RAY_ADDRESS" not in os.environ
    if is_alone:
        # By this name, on every system: Ray listens to this machine alone.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    if is_alone:
        # One core more than the actors, to read and write.
        ray.init("local", num_cpus=actors + 1, include_dashboard=False)
    ray.data.read_parquet(str(rows.absolute()), override_num_blocks=blocks).map_batches(
        BatchPredictor,
        fn_constructor_args=(predictor.source, predictor.text_column, predictor.outputs),
        compute=ray.data.ActorPoolStrategy(size=actors),
        batch_size=4096,
        batch_format="pyarrow",
        num_cpus=1,
        num_gpus=gpus,
    ).write_parquet(str(output.absolute()))


if __name__ == "__main__":
    run_verb(main, __doc__, extra="ray")
